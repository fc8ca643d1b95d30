import subprocess
import sys

import pytest

from milepost.resources.runs import Task
from milepost.training.run import main
from tests.training.conftest import chats
from tests.training.reading import events, result


@pytest.fixture
def validated(make_run):
    def check(**files):
        run = make_run(task=Task.VALIDATE, **files)
        assert main(run) == 0
        return run

    return check


def test_good_files_are_validated_and_counted(validated):
    run = validated(training=chats(12), validation=chats(3))
    assert result(run)["outcome"] == "validated"
    first, second, *rest = events(run)
    assert (first["child_seq"], second["child_seq"]) == (1, 2)
    assert rest[-1]["message"].startswith("Forecast: 6 steps over ")
    assert first["message"].startswith("Training file: 12 examples of ")
    assert second["data"]["examples"] == 3
    assert first["data"]["tokens"] == result(run)["training_tokens"]


def test_fewer_than_ten_examples_fail_in_openais_words(validated):
    assert result(validated(training=chats(8)))["error"] == {
        "code": "invalid_n_examples",
        "message": "Training file has 8 example(s), but must have at least 10 examples",
        "param": "training_file",
    }


def test_every_bad_line_is_listed_in_the_error_and_as_an_event(validated):
    no_role = {"messages": [{"content": "x"}]}
    end_in_text = {"messages": [{"role": "user", "content": "a<|im_end|>"}, {"role": "assistant", "content": "b"}]}
    run = validated(training=[*chats(10), "{nope", no_role, end_in_text])
    message = result(run)["error"]["message"]
    assert result(run)["error"]["code"] == "invalid_training_file"
    assert message.startswith("The job failed due to an invalid training file. Invalid file format. 3 lines are bad. ")
    assert "Line 12: message 1 Discriminator 'role' is missing in value" in message
    assert [(event["level"], event["data"]["line"]) for event in events(run)] == [
        ("error", 11),
        ("error", 12),
        ("error", 13),
    ]
    assert events(run)[2]["message"] == "Line 13: message 1 contains an invalid token: <|im_end|>"


def test_fifty_bad_lines_are_listed_and_the_rest_counted(validated):
    run = validated(training=[*chats(10), *["{nope"] * 60])
    assert "60 lines are bad (the first 50 are listed)" in result(run)["error"]["message"]
    assert len(events(run)) == 50


def test_a_bad_validation_file_is_named(validated):
    run = validated(training=chats(10), validation=["{nope"])
    assert (result(run)["error"]["code"], result(run)["error"]["param"]) == (
        "invalid_validation_file",
        "validation_file",
    )


def test_preference_data_is_refused_in_openais_words(validated):
    line = {
        "input": {"messages": [{"role": "user", "content": "x"}]},
        "preferred_output": [{"role": "assistant", "content": "y"}],
        "non_preferred_output": [{"role": "assistant", "content": "z"}],
    }
    assert (
        "Input file file-training is in the fine-tune-preference format, but the specified fine-tuning job is not using "
        "'dpo' as the training method (provided method=supervised)."
    ) in result(validated(training=[line] * 10))["error"]["message"]


def test_an_extra_key_is_named(validated):
    run = validated(training=[line | {"wieght": 1} for line in chats(10)])
    assert 'Line 1: contains an extra "wieght"' in result(run)["error"]["message"]


def test_pairs_are_supervised_data_too(validated):
    run = validated(training=[{"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(10)])
    assert result(run)["outcome"] == "validated"


def test_examples_that_a_cut_leaves_nothing_to_learn_of_are_told_and_counted(validated):
    asked = {"messages": [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "hi"}]}
    run = validated(training=[*chats(10), asked, asked], hyperparameters={"max_length": 150})
    warning = events(run)[2]
    assert (warning["level"], warning["data"]["left_out_examples"]) == ("warn", 2)
    assert warning["message"] == (
        "2 of 12 examples have nothing to learn and are left out, for their answers are empty, or begin only after the "
        "longest length that is trained: lines 11, 12"
    )
    assert result(run)["outcome"] == "validated"


def test_examples_that_teach_nothing_do_not_count_among_the_least_there_must_be(validated):
    asked = {"messages": [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "hi"}]}
    run = validated(training=[*chats(9), asked, asked], hyperparameters={"max_length": 150})
    assert result(run)["error"]["code"] == "invalid_n_examples"
    assert result(run)["error"]["message"].startswith(
        "Training file has 9 example(s) with a token to learn, but must have at least 10 examples: their answers are"
    )


def test_long_examples_are_cut_and_counted_in_a_warning(validated):
    long = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x" * 300}]}
    run = validated(training=[*chats(10), long, long], hyperparameters={"max_length": 150})
    warning = events(run)[1]
    assert warning["level"] == "warn"
    assert warning["message"] == ("2 of 12 examples are longer than 150 tokens and are cut at their end: lines 11, 12")


def test_a_file_with_nothing_left_to_learn_is_refused(validated):
    long = {"messages": [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "y"}]}
    run = validated(training=[long] * 10, hyperparameters={"max_length": 150})
    assert "No example has a token to learn" in result(run)["error"]["message"]


def test_a_file_whose_bytes_have_changed_is_not_read(make_run):
    run = make_run(task=Task.VALIDATE)
    (run / "training.jsonl").write_text("{}\n")
    main(run)
    assert "has sha256" in result(run)["error"]["message"]


def test_validation_imports_no_torch():
    code = "import sys; import milepost.training.run; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
