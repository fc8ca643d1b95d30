"""How alike two texts are, from 0 to 1. Each metric is a function of the text and the reference.

Tokens of BLEU, GLEU and METEOR are words and single punctuation marks. Those of ROUGE are words in lower case, as in
Google's rouge-score, but of any script. Time grows with the length, but for `fuzzy_match` and `rouge_l`, where it grows
with its square over 64: so there is a longest text.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise

import snowballstemmer
from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

from milepost.graders.scores import Score, failed
from milepost.graders.templates import Namespaces, fill
from milepost.resources.graders import TextSimilarityGrader

#: In characters, of either text. Two of this length take `fuzzy_match` about half a second.
MAX_TEXT = 100_000

Tokens = Sequence[str]
Grams = Counter[tuple[str, ...]]


def text_similarity(grader: TextSimilarityGrader, spaces: Namespaces) -> Score:
    """The metric of the two texts. A text longer than MAX_TEXT is not compared: the reward is 0, with an error."""
    text, reference = fill(spaces, grader.input, grader.reference)
    for field, found in (("input", text), ("reference", reference)):
        if len(found) > MAX_TEXT:
            return failed(
                f"`{field}` has {len(found)} characters; {MAX_TEXT} are compared at most. Compare a part of it",
                "other_error",
            )
    return Score(METRICS[grader.evaluation_metric](text, reference))


def fuzzy_match(text: str, reference: str) -> float:
    """RapidFuzz's `fuzz.ratio` over 100: 1 - d / (n + m), d the least number of characters to insert and delete.

    Two empty texts are alike: 1.
    """
    return fuzz.ratio(text, reference) / 100


def bleu(text: str, reference: str) -> float:
    """BLEU (Papineni et al. 2002) of one sentence, as sacreBLEU's `sentence_bleu` has it (Post 2018), over 100.

    The geometric mean of the precisions of 1- to 4-grams, of those orders that the text is long enough for, times the
    brevity penalty exp(1 - r/c). An order without a match counts as half a match, then a quarter … (Chen & Cherry 2014,
    method 3). So a text equal to its reference has 1, however short; one without a common word has 0.
    """
    words, wanted = _words(text), _words(reference)
    orders = range(1, min(4, len(words)) + 1)
    logs, share = [], 1.0
    for order in orders:
        matches = _common(_grams(words, order), _grams(wanted, order))
        if order == 1 and matches == 0:
            return 0.0
        share = share if matches else share / 2
        logs.append(math.log((matches or share) / (len(words) - order + 1)))
    if not logs:
        return 0.0
    brevity = min(0.0, 1 - len(wanted) / len(words))
    return math.exp(brevity + sum(logs) / len(logs))


def gleu(text: str, reference: str) -> float:
    """GLEU, Google's BLEU (Wu et al. 2016, §8), as NLTK's `sentence_gleu` has it.

    Matches among all 1- to 4-grams together, over those of the longer text: the lesser of precision and recall.
    """
    words, wanted = _words(text), _words(reference)
    matches = sum(_common(_grams(words, order), _grams(wanted, order)) for order in range(1, 5))
    most = max(sum(max(0, len(tokens) - order + 1) for order in range(1, 5)) for tokens in (words, wanted))
    return matches / most if most else 0.0


def meteor(text: str, reference: str) -> float:
    """METEOR (Banerjee & Lavie 2005), as NLTK's `single_meteor_score` has it, but without synonyms.

    Words match exactly, then by their Porter stem; there is no stage of WordNet synonyms, whose data would have to be
    fetched. Case does not matter. The mean of precision and recall, which weighs recall nine times, is lessened by up
    to half for each piece the matches fall into: so even a text equal to its reference has a little less than 1.
    """
    words, wanted = _words(text.lower()), _words(reference.lower())
    matches = _matches(words, wanted)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(words), len(matches) / len(wanted)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    pieces = 1 + sum((after[0] - before[0], after[1] - before[1]) != (1, 1) for before, after in pairwise(matches))
    return mean * (1 - 0.5 * (pieces / len(matches)) ** 3)


def rouge_n(order: int, text: str, reference: str) -> float:
    """ROUGE-N (Lin 2004): F1 of the n-grams in common, as rouge-score has it, without stemming.

    A text of fewer than n words has no n-grams: 0.
    """
    grams, wanted = _grams(_rouge_words(text), order), _grams(_rouge_words(reference), order)
    return _f1(_common(grams, wanted), grams.total(), wanted.total())


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, the whole text as one sentence."""
    words, wanted = _rouge_words(text), _rouge_words(reference)
    return _f1(LCSseq.similarity(words, wanted), len(words), len(wanted))


METRICS: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{order}": partial(rouge_n, order) for order in range(1, 6)},
    "rouge_l": rouge_l,
}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _rouge_words(text: str) -> list[str]:
    """For ASCII what rouge-score takes: [a-z0-9]+ of the text in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def _grams(tokens: Tokens, order: int) -> Grams:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _common(grams: Grams, wanted: Grams) -> int:
    return (grams & wanted).total()


def _f1(matches: int, found: int, wanted: int) -> float:
    return 2 * matches / (found + wanted) if matches else 0.0


def _matches(words: Tokens, wanted: Tokens) -> list[tuple[int, int]]:
    """Pairs of positions, in order of the text: equal words, then words of one stem among what is left.

    Of several partners the last takes the last, as NLTK pairs them.
    """
    left, right = list(enumerate(words)), list(enumerate(wanted))
    pairs: list[tuple[int, int]] = []
    for key in (lambda word: word, _stem):
        found = list(_pairs(left, right, key))
        pairs += found
        paired, partners = {position for position, _ in found}, {position for _, position in found}
        left = [each for each in left if each[0] not in paired]
        right = [each for each in right if each[0] not in partners]
    return sorted(pairs)


def _pairs(
    left: Sequence[tuple[int, str]], right: Sequence[tuple[int, str]], key: Callable[[str], Hashable]
) -> Iterator[tuple[int, int]]:
    waiting: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, word in right:
        waiting[key(word)].append(position)
    for position, word in reversed(left):
        if places := waiting[key(word)]:
            yield position, places.pop()


def _stem(word: str) -> str:
    return str(_porter().stemWord(word))


@cache
def _porter() -> snowballstemmer.stemmer:
    return snowballstemmer.stemmer("porter")
