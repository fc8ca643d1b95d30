"""The metrics, against the libraries that define them.

The expected values were computed with sacrebleu 2.6.0 (`sentence_bleu`, tokenize="none", over our tokens), nltk 3.9.1
(`sentence_gleu`; `single_meteor_score` without WordNet) and rouge-score 0.1.2. So were 3,000 random pairs, with no
difference above 1e-9.
"""

import time

import pytest

from milepost.graders.grading import Means, grade
from milepost.graders.text_similarity import MAX_TEXT, METRICS
from milepost.resources.graders import TextSimilarityGrader

NAMES = ("bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l")

PAIRS = [
    # text, reference, values in the order of NAMES
    ("the cat sat on the mat", "the cat sat on the mat", (1.000000, 1.000000, 0.997685, 1.000000, 1.000000, 1.000000, 1.000000, 1.000000, 1.000000)),
    ("the cat is on the mat", "there is a cat on the mat", (0.290593, 0.363636, 0.646377, 0.769231, 0.363636, 0.222222, 0.000000, 0.000000, 0.615385)),
    ("It is a guide to action which ensures that the military always obeys the commands of the party", "It is a guide to action that ensures that the military will forever heed Party commands", (0.411804, 0.439394, 0.694444, 0.705882, 0.500000, 0.400000, 0.285714, 0.153846, 0.647059)),
    ("yes", "yes", (1.000000, 1.000000, 0.500000, 1.000000, 0.000000, 0.000000, 0.000000, 0.000000, 1.000000)),
    ("Paris", "The capital of France is Paris.", (0.002479, 0.045455, 0.078125, 0.285714, 0.000000, 0.000000, 0.000000, 0.000000, 0.285714)),
    ("the the the the the the the", "the cat is on the mat", (0.078098, 0.090909, 0.163934, 0.307692, 0.000000, 0.000000, 0.000000, 0.000000, 0.307692)),
    ("He was running and jumped over fences", "He runs and jumps over the fence", (0.086430, 0.136364, 0.803571, 0.428571, 0.000000, 0.000000, 0.000000, 0.000000, 0.428571)),
    ("completely different words", "nothing in common here", (0.000000, 0.000000, 0.000000, 0.000000, 0.000000, 0.000000, 0.000000, 0.000000, 0.000000)),
    ("a b c d e f g h", "h g f e d c b a", (0.092875, 0.307692, 0.500000, 1.000000, 0.000000, 0.000000, 0.000000, 0.000000, 0.125000)),
    ("Hello, world! It's 2024; good-bye.", "hello world it is 2024 goodbye", (0.036735, 0.043478, 0.298507, 0.615385, 0.363636, 0.222222, 0.000000, 0.000000, 0.615385)),
    # ours: rouge-score finds no word in another script
    ("東京 は 日本 の 首都", "東京 は 首都", (0.236435, 0.285714, 0.798611, 0.750000, 0.333333, 0.000000, 0.000000, 0.000000, 0.750000)),
    ("", "a text", (0.0,) * 9),
    ("a text", "", (0.0,) * 9),
    ("", "", (0.0,) * 9),
    (" \n\t", "!?", (0.0,) * 9),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reference", "expected"), PAIRS)
def test_a_metric_is_what_its_library_says(text, reference, expected):
    assert [METRICS[name](text, reference) for name in NAMES] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("this is a test", "this is a test!", 0.965517),
        ("", "", 1.0),
        ("", "a", 0.0),
        ("Straße", "Strasse", 0.769231),
        ("👩‍💻", "👩‍💻", 1.0),
    ],
)
def test_fuzzy_match_is_the_ratio_over_a_hundred(text, reference, expected):
    assert METRICS["fuzzy_match"](text, reference) == pytest.approx(expected, abs=1e-6)


def similarity(metric: str, text: str):
    grader = TextSimilarityGrader(
        type="text_similarity",
        name="s",
        input="{{ sample.output_text }}",
        reference="{{ item.x }}",
        evaluation_metric=metric,
    )
    return grade(grader, text, {"x": text}, Means(judge=None, run_python=None))


@pytest.mark.parametrize("metric", METRICS)
def test_the_longest_text_is_compared_in_little_time(metric):
    began = time.process_time()
    assert similarity(metric, "ab " * (MAX_TEXT // 3)).reward == pytest.approx(1.0)
    assert time.process_time() - began < 5


def test_a_longer_one_is_not_compared_and_that_is_said():
    score = similarity("rouge_l", "a" * 1_000_000)
    assert (score.reward, score.errors.other_error) == (0.0, True)
    assert score.errors.details == ("`input` has 1000000 characters; 100000 are compared at most. Compare a part of it")
