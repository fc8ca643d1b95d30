"""What a validation says beyond good and bad, and that it says the same as the report of an upload."""

import io
import json

import pytest

from milepost.checks.report import AT_UPLOAD, Question, examine
from milepost.checks.tokens import load_tokenizer
from milepost.modeling.folders import file_hash
from milepost.resources.forecasts import Forecast, Speed
from milepost.resources.methods import LineShape, MethodType
from milepost.resources.runs import Task
from milepost.training.run import main
from tests.checks import defects
from tests.training.conftest import chats
from tests.training.reading import events, result

METHOD_OF = {LineShape.CHAT: MethodType.SUPERVISED, LineShape.COMPLETION: MethodType.SUPERVISED}
METHOD_OF[LineShape.PREFERENCE] = MethodType.DPO
PLANTED = [(name, shape) for name, shape in defects.PLACES if shape in METHOD_OF]


@pytest.fixture
def validated(make_run):
    def check(**files):
        run = make_run(task=Task.VALIDATE, **files)
        assert main(run) == 0
        return run

    return check


def told(run) -> list[tuple[int, str]]:
    return [(event["data"]["line"], event["message"]) for event in events(run) if event["level"] == "error"]


def put_training_file(run, content: bytes) -> None:
    """As an upload would: bytes, not lines."""
    (run / "training.jsonl").write_bytes(content)
    spec = json.loads((run / "job.json").read_text())
    spec["training"]["hash"] = file_hash(run / "training.jsonl")
    (run / "job.json").write_text(json.dumps(spec))


@pytest.mark.parametrize(("name", "shape"), PLANTED[::6])
def test_a_job_fails_on_the_lines_that_the_report_names_in_the_same_words(make_run, tiny_base, name, shape):
    file = defects.plant(7, name, shape)
    tokenizer = load_tokenizer(tiny_base, "tiny-random-llama", 2048)
    report = examine(io.BytesIO(file.content), Question(AT_UPLOAD, method=METHOD_OF[file.shape], tokenizer=tokenizer))
    run = make_run(task=Task.VALIDATE, method=METHOD_OF[file.shape])
    put_training_file(run, file.content)
    assert main(run) == 0
    assert told(run) == [(bad.line, f"Line {bad.line}: {bad.reason}") for bad in report.bad]
    assert (result(run)["outcome"] == "validated") is report.is_trainable


def test_events_of_bad_lines_say_what_mends_them(validated):
    run = validated(training=[*chats(10), "{'a': 1}"])
    assert events(run)[0]["data"]["fix"].startswith("This is Python, not JSON")


def test_what_deserves_a_look_is_a_warning(validated):
    twice = chats(1, seed=5)[0]
    odd = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "nan"}]}
    run = validated(training=[twice, *chats(10), odd, twice], validation=[twice])
    warnings = [event["message"] for event in events(run) if event["level"] == "warn"]
    assert warnings[0].startswith("Data check: Line 12: message 2 says 'nan': is an answer missing?")
    assert any(
        message.startswith("Data check: 1 example repeats an earlier one, such as lines 1, 13") for message in warnings
    )
    assert warnings[-1].startswith("Data check: 1 of 1 validation examples are trained on too")


def test_steps_and_tokens_are_forecast_exactly(make_run, validated):
    """The numbers that training then has: two epochs of 22 examples, four a step."""
    run = validated()
    forecast = Forecast.model_validate(result(run)["forecast"])
    trained = make_run("train")
    assert main(trained) == 0
    assert (forecast.steps, forecast.tokens) == (result(trained)["total_steps"], result(trained)["trained_tokens"])
    assert forecast.steps == 12
    assert (forecast.threads, forecast.dtype, forecast.machine_gflops) == (1, "float32", 50.0)
    assert events(run)[-1]["message"].startswith("Forecast: 12 steps over ")
    assert events(run)[-1]["data"]["tokens"] == forecast.tokens
    assert result(run)["speed"] is None


def test_a_machine_that_was_not_measured_is_measured_once(validated):
    run = validated(speed=None)
    speed = Speed.model_validate(result(run)["speed"])
    assert result(run)["forecast"]["machine_gflops"] == speed.of(1)


def test_time_and_memory_are_of_all_lives_of_a_run(make_run):
    run = make_run()
    (run / "progress.json").write_text(
        json.dumps({"heartbeat": 1, "pid": 1, "phase": "training", "spent_s": 1000.0, "peak_memory_bytes": 10**15})
    )
    assert main(run) == 0
    last = json.loads((run / "progress.json").read_text())
    assert 1000 < last["spent_s"] < 1060
    assert last["peak_memory_bytes"] == 10**15


def test_progress_tells_time_and_memory(make_run):
    run = make_run()
    assert main(run) == 0
    last = json.loads((run / "progress.json").read_text())
    assert last["phase"] == "done"
    assert last["spent_s"] > 0
    assert last["peak_memory_bytes"] > 10**8
