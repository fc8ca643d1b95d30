"""/fine_tuning/alpha/graders: through the SDK, the judge an engine that answers by rule."""

import asyncio

import openai
import psutil
import pytest

from milepost.errors import Invalid, Unavailable
from milepost.graders import sandbox
from milepost.jobs import ledger
from milepost.resources.graders import MAX_SOURCE_BYTES
from tests.api.conftest import BASE, KEY, NOW
from tests.api.fakes import BugError, Leaver, checkpoint_folder

RUN = "/fine_tuning/alpha/graders/run"
VALIDATE = "/fine_tuning/alpha/graders/validate"

EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
ALIKE = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "evaluation_metric": "fuzzy_match",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "gpt-4o-mini",
    "input": [{"role": "user", "content": "How good is {{ sample.output_text }}?"}],
    "range": [0, 1],
    "sampling_params": {
        "temperature": 0,
        "top_p": 0.5,
        "seed": 3,
        "max_completions_tokens": 20,
        "reasoning_effort": None,
    },
}
PYTHON = {
    "type": "python",
    "name": "own",
    "source": "def grade(sample, item):\n    print('looking')\n    return len(sample['output_text']) / item['most']",
    "image_tag": "2025-05-08",
}
MULTI = {
    "type": "multi",
    "name": "both",
    "graders": {"exact": EXACT, "alike": ALIKE},
    "calculate_output": "0.5 * exact + 0.5 * alike",
}

#: Every key of `metadata.errors` that OpenAI documents, and ours.
NO_ERRORS = {
    "formula_parse_error": False,
    "sample_parse_error": False,
    "truncated_observation_error": False,
    "unresponsive_reward_error": False,
    "invalid_variable_error": False,
    "other_error": False,
    "python_grader_server_error": False,
    "python_grader_server_error_type": None,
    "python_grader_runtime_error": False,
    "python_grader_runtime_error_details": None,
    "model_grader_server_error": False,
    "model_grader_server_error_details": None,
    "model_grader_refusal_error": False,
    "model_grader_parse_error": False,
    "details": None,
}


@pytest.fixture
def graders(client):
    return client.fine_tuning.alpha.graders


@pytest.fixture
def loose(client):
    """The SDK as it comes: its types know one grader only in a multi grader, though the API takes a map."""
    sdk = openai.AsyncOpenAI(api_key=KEY, base_url="http://test/v1", http_client=client._client, max_retries=0)
    return sdk.fine_tuning.alpha.graders


async def test_a_run_has_every_field(http):
    answer = await http.post(RUN, json={"grader": EXACT, "model_sample": "42", "item": {"answer": "42"}})
    body = answer.json()
    seconds = body["metadata"].pop("execution_time")
    assert 0 <= seconds < 5
    assert body == {
        "reward": 1.0,
        "metadata": {
            "name": "exact",
            "type": "string_check",
            "errors": NO_ERRORS,
            "scores": {},
            "token_usage": None,
            "sampled_model_name": None,
            "output": None,
        },
        "sub_rewards": {},
        "model_grader_token_usage_per_model": {},
    }


async def test_an_item_is_not_needed(graders):
    grader = EXACT | {"reference": "{{ sample.output_json.x }}", "input": "1"}
    assert (await graders.run(grader=grader, model_sample='{"x": 1}')).reward == 1.0


@pytest.mark.parametrize(
    ("metric", "reward"),
    [("fuzzy_match", 0.965517), ("bleu", 0.778801), ("gleu", 0.714286), ("meteor", 0.809949), ("rouge_1", 1.0), ("rouge_l", 1.0)],
)  # fmt: skip
async def test_texts_are_compared(graders, metric, reward):
    answer = await graders.run(
        grader=ALIKE | {"evaluation_metric": metric}, model_sample="this is a test", item={"answer": "this is a test!"}
    )
    assert answer.reward == pytest.approx(reward, abs=1e-6)


async def test_an_unknown_variable_is_told_in_the_answer(graders):
    answer = await graders.run(grader=EXACT, model_sample="42", item={"anser": "42"})
    assert (answer.reward, answer.metadata.errors.invalid_variable_error) == (0.0, True)
    assert answer.metadata.errors.details == (
        "`{{ item.answer }}` cannot be filled in: there is no `answer`; there is `anser`"
    )


async def test_a_judge_is_a_model_of_this_server(graders, engine):
    engine.answer = ('{"result": ', "0.25}")
    answer = await graders.run(grader=JUDGE, model_sample="42")
    assert answer.reward == 0.25
    assert answer.metadata.sampled_model_name == BASE
    assert answer.metadata.token_usage == 9
    assert answer.to_dict()["model_grader_token_usage_per_model"] == {
        BASE: {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "cached_tokens": 0}
    }
    [asked] = engine.asked
    assert (asked.temperature, asked.top_p, asked.seed, asked.max_tokens, asked.n) == (0, 0.5, 3, 20, 1)
    assert asked.messages[-1] == {"role": "user", "content": "How good is 42?"}
    assert asked.base.hash == "b" * 64


async def test_a_judge_may_be_a_checkpoint_and_answers_with_its_weights(
    client, graders, training_file, database, tmp_path, engine
):
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    name = ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path, 3), NOW).fine_tuned_model_checkpoint
    engine.answer = ("1",)
    answer = await graders.run(
        grader=JUDGE | {"model": name, "sampling_params": None, "range": None}, model_sample="42"
    )
    assert (answer.reward, answer.metadata.sampled_model_name) == (1.0, name)
    assert engine.asked[0].adapter.name == name
    assert (engine.asked[0].temperature, engine.asked[0].top_p, engine.asked[0].max_tokens) == (1.0, 1.0, None)


async def test_a_judge_without_a_number_is_no_reward(graders):
    answer = await graders.run(grader=JUDGE, model_sample="42")
    assert (answer.reward, answer.metadata.errors.api_model_grader_parse_error) == (0.0, True)
    assert answer.metadata.token_usage == 10


@pytest.mark.parametrize("error", [Unavailable("The engine is gone. Try again"), Invalid("The prompt is too long")])
async def test_an_engine_that_cannot_answer_is_told(graders, engine, error):
    engine.error = error
    answer = await graders.run(grader=JUDGE, model_sample="42")
    assert (answer.reward, answer.metadata.errors.api_model_grader_server_error) == (0.0, True)
    assert answer.metadata.errors.api_model_grader_server_error_details == error.message


async def test_what_nobody_meant_to_raise_is_a_500(http, engine):
    engine.error = BugError("secret")
    answer = await http.post(RUN, json={"grader": JUDGE, "model_sample": "42"})
    assert answer.status_code == 500
    assert "secret" not in answer.text


async def test_a_client_that_leaves_stops_the_judge(app, engine):
    engine.waits = True
    client = Leaver(app, RUN, {"grader": JUDGE, "model_sample": "42"}, KEY)
    await asyncio.wait_for(engine.began.wait(), 5)
    client.left.set()
    await asyncio.wait_for(engine.closed.wait(), 5)
    await asyncio.wait_for(client.done, 5)
    assert client.sent.empty()


async def test_a_client_that_leaves_stops_the_sandbox(app):
    source = "import time\ndef grade(sample, item):\n    time.sleep(60)"
    client = Leaver(app, RUN, {"grader": PYTHON | {"source": source}, "model_sample": "42"}, KEY)
    while not jails():  # noqa: ASYNC110 (a process does not tell when it has begun)
        await asyncio.sleep(0.01)
    client.left.set()
    await asyncio.wait_for(client.done, 10)
    assert jails() == []


def jails() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [process for process in children if str(sandbox.JAIL) in process.cmdline()]


async def test_a_python_grader_is_run(graders):
    answer = await graders.run(grader=PYTHON, model_sample="42", item={"most": 8})
    assert (answer.reward, answer.metadata.output) == (0.25, "looking\n")


async def test_a_python_grader_that_fails_is_told_with_its_own_traceback(graders):
    answer = await graders.run(grader=PYTHON, model_sample="42", item={})
    errors = answer.metadata.errors
    assert (answer.reward, errors.python_grader_runtime_error, errors.python_grader_server_error) == (0.0, True, False)
    assert errors.python_grader_runtime_error_details == (
        "Traceback (most recent call last):\n"
        '  File "grader.py", line 3, in grade\n'
        "    return len(sample['output_text']) / item['most']\n"
        "                                         ~~~~^^^^^^^^\n"
        "KeyError: 'most'"
    )
    assert errors.details == "KeyError: 'most'"


async def test_several_graders_are_one_formula(graders):
    answer = await graders.run(grader=MULTI, model_sample="4", item={"answer": "42"})
    assert answer.reward == pytest.approx(1 / 3)
    assert answer.sub_rewards == {"exact": 0.0, "alike": pytest.approx(2 / 3)}
    assert (answer.metadata.type, answer.metadata.name) == ("multi", "both")


async def test_a_formula_that_cannot_be_read_is_told_in_the_answer(graders):
    answer = await graders.run(grader=MULTI | {"calculate_output": "exact +"}, model_sample="4", item={"answer": "42"})
    assert (answer.reward, answer.sub_rewards, answer.metadata.errors.formula_parse_error) == (0.0, {}, True)


async def test_graders_that_need_no_sandbox_do_not_wait_for_those_that_do(graders):
    source = "import time\ndef grade(sample, item):\n    time.sleep(30)"
    running = [
        asyncio.create_task(graders.run(grader=PYTHON | {"source": source}, model_sample="42")) for _ in range(5)
    ]
    answer = await asyncio.wait_for(graders.run(grader=EXACT, model_sample="42", item={"answer": "42"}), 10)
    assert answer.reward == 1.0
    assert not any(task.done() for task in running)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_other_routes_answer_while_graders_run(client, graders):
    source = "import time\ndef grade(sample, item):\n    time.sleep(0.5)\n    return 1.0"
    running = [
        asyncio.create_task(graders.run(grader=PYTHON | {"source": source}, model_sample="42")) for _ in range(6)
    ]
    assert (await client.models.list()).data[0].id == BASE
    assert not any(task.done() for task in running)
    assert [answer.reward for answer in await asyncio.gather(*running)] == [1.0] * 6


@pytest.mark.parametrize("grader", [EXACT, ALIKE, JUDGE, PYTHON], ids=lambda grader: grader["type"])
async def test_a_valid_grader_is_echoed(graders, grader):
    answer = await graders.validate(grader=grader)
    assert answer.to_dict()["grader"] == grader


@pytest.mark.parametrize(
    ("graders", "formula"), [({"a": EXACT, "b": PYTHON}, "a + b"), ([EXACT, PYTHON], "exact + own"), (EXACT, "exact")]
)
async def test_a_multi_grader_is_echoed_as_it_was_sent(loose, graders, formula):
    grader = {"type": "multi", "name": "m", "graders": graders, "calculate_output": formula}
    answer = await loose.with_raw_response.validate(grader=grader)
    assert answer.http_response.json() == {"grader": grader}
    assert answer.parse().grader is not None


async def test_a_multi_grader_of_one_passes_the_sdks_strict_types(graders):
    grader = {"type": "multi", "name": "m", "graders": EXACT, "calculate_output": "exact"}
    assert (await graders.validate(grader=grader)).grader.graders.operation == "eq"


def with_part(part) -> dict:
    return JUDGE | {"input": [{"role": "user", "content": ["look:", part]}]}


@pytest.mark.parametrize(
    "grader",
    [
        ALIKE | {"pass_threshold": 0.8},
        JUDGE | {"pass_threshold": 0.8},
        JUDGE
        | {"input": [{"role": "developer", "type": "message", "content": ["a", {"type": "input_text", "text": "b"}]}]},
        JUDGE | {"input": [{"role": "user", "content": {"type": "output_text", "text": "b"}}]},
        with_part({"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}),
        JUDGE | {"sampling_params": {"reasoning_effort": "xhigh", "seed": None, "temperature": None}},
        {key: value for key, value in PYTHON.items() if key != "image_tag"},
    ],
)
async def test_everything_the_sdk_can_send_is_taken(graders, grader):
    assert (await graders.validate(grader=grader)).to_dict()["grader"] == grader


def multi(**graders) -> dict:
    return MULTI | {"graders": graders}


BAD = [
    # grader, param, code, message
    (None, "grader", "invalid_type", "Invalid type for 'grader': expected an object, but got null instead."),
    ({}, "grader.type", "missing_required_parameter", "Missing required parameter: 'grader.type'."),
    ({"type": "cosmic"}, "grader.type", "invalid_value", "Invalid value: 'cosmic' for 'grader.type'. Supported values are: 'string_check', 'text_similarity', 'score_model', 'python', 'multi'."),
    ({"type": "string_check"}, "grader.name", "missing_required_parameter", "Missing required parameter: 'grader.name'."),
    (EXACT | {"operation": "neq"}, "grader.operation", "invalid_value", "Invalid value: 'neq' for 'grader.operation'. Supported values are: 'eq', 'ne', 'like' or 'ilike'."),
    (EXACT | {"input": 3}, "grader.input", "invalid_type", "Invalid type for 'grader.input': expected a string, but got an integer instead."),
    (EXACT | {"case": 1}, "grader.case", "unknown_parameter", "Unknown parameter: 'grader.case'."),
    (EXACT | {"input": "{{ output }}"}, "grader.input", "invalid_value", "Invalid value for 'grader.input': '{{ output }}'. `{{ output }}` is not a template: write `{{ item.answer }}`, with the namespace `item` or `sample`."),
    (EXACT | {"input": "{{ items.x }}"}, "grader.input", "invalid_value", "Invalid value for 'grader.input': '{{ items.x }}'. `{{ items.x }}` is not a template"),
    (EXACT | {"input": "{{ item.x | upper }}"}, "grader.input", "invalid_value", "Invalid value for 'grader.input'"),
    (EXACT | {"input": "{{ item.__class__() }}"}, "grader.input", "invalid_value", "Invalid value for 'grader.input'"),
    (EXACT | {"reference": "{{ item.x"}, "grader.reference", "invalid_value", "Invalid value for 'grader.reference': '{{ item.x'. A template is opened with `{{` and not closed with `}}`."),
    (ALIKE | {"evaluation_metric": "cosine"}, "grader.evaluation_metric", "invalid_value", "Invalid value for 'grader.evaluation_metric': 'cosine'. It compares embeddings, and this server has no embedding model. Use another metric."),
    (ALIKE | {"evaluation_metric": "rouge_9"}, "grader.evaluation_metric", "invalid_value", "Invalid value: 'rouge_9' for 'grader.evaluation_metric'. Supported values are: "),
    (JUDGE | {"input": []}, "grader.input", "array_below_min_length", "Invalid 'grader.input': array too short."),
    (JUDGE | {"input": [{"role": "tool", "content": "a"}]}, "grader.input[0].role", "invalid_value", "Invalid value: 'tool' for 'grader.input[0].role'."),
    (JUDGE | {"input": [{"role": "user", "content": "{{ x }}"}]}, "grader.input[0].content", "invalid_value", "Invalid value for 'grader.input[0].content': '{{ x }}'. `{{ x }}` is not a template"),
    (with_part({"type": "input_image", "image_url": "data:"}), "grader.input[0].content[1].type", "invalid_value", "Invalid value for 'grader.input[0].content[1].type': 'input_image'. Judges read text only"),
    (with_part({"type": "input_audio", "input_audio": {}}), "grader.input[0].content[1].type", "invalid_value", "Invalid value for 'grader.input[0].content[1].type': 'input_audio'. Judges read text only"),
    (JUDGE | {"range": [1]}, "grader.range[1]", "missing_required_parameter", "Missing required parameter: 'grader.range[1]'."),
    (JUDGE | {"range": [1, 0]}, "grader.range", "invalid_value", "Invalid value for 'grader.range': [1, 0]. A range is two numbers, the lower one first."),
    (JUDGE | {"range": [0, 1, 2]}, "grader.range", "array_above_max_length", "Invalid 'grader.range': array too long."),
    (JUDGE | {"sampling_params": {"temperature": 3}}, "grader.sampling_params.temperature", "decimal_above_max_value", "Invalid 'grader.sampling_params.temperature': above maximum value."),
    (JUDGE | {"sampling_params": {"max_completion_tokens": 3}}, "grader.sampling_params.max_completion_tokens", "unknown_parameter", "Unknown parameter: 'grader.sampling_params.max_completion_tokens'."),
    (PYTHON | {"source": "#" * (MAX_SOURCE_BYTES + 1)}, "grader.source", "invalid_value", "Invalid value for 'grader.source': '"),
    ({"type": "label_model", "name": "l", "model": "m", "input": [], "labels": ["a"], "passing_labels": ["a"]}, "grader.type", "invalid_value", "Invalid value for 'grader.type': 'label_model'. A label_model grader gives a label, not a reward"),
    (multi(a={"type": "label_model"}), "grader.graders.a.type", "invalid_value", "Invalid value for 'grader.graders.a.type': 'label_model'. A label_model"),
    (multi(a=MULTI), "grader.graders.a.type", "invalid_value", "Invalid value for 'grader.graders.a.type': 'multi'. A multi grader cannot hold another"),
    (multi(a=EXACT | {"operation": "is"}), "grader.graders.a.operation", "invalid_value", "Invalid value: 'is' for 'grader.graders.a.operation'."),
    (MULTI | {"graders": [EXACT, ALIKE | {"input": 1}]}, "grader.graders[1].input", "invalid_type", "Invalid type for 'grader.graders[1].input'"),
    (MULTI | {"graders": [EXACT, EXACT]}, "grader.graders", "invalid_value", "Invalid value for 'grader.graders': "),
    (MULTI | {"graders": EXACT | {"name": "not a name"}}, "grader.graders", "invalid_value", "Invalid value for 'grader.graders': "),
    (multi(), "grader.graders", "object_below_min_length", "Invalid 'grader.graders': object too short."),
    (MULTI | {"graders": []}, "grader.graders", "array_below_min_length", "Invalid 'grader.graders': array too short."),
    (MULTI | {"graders": "exact"}, "grader.graders", "invalid_type", "Invalid type for 'grader.graders': expected an object, but got a string instead."),
    (multi(max=EXACT), "grader.graders", "invalid_value", "Invalid value for 'grader.graders': "),
]  # fmt: skip


@pytest.mark.parametrize("path", [RUN, VALIDATE])
@pytest.mark.parametrize(("grader", "param", "code", "message"), BAD)
async def test_a_bad_grader_is_a_400_that_says_what_and_where(http, path, grader, param, code, message):
    body = {"grader": grader} | ({"model_sample": "42"} if path == RUN else {})
    answer = await http.post(path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["message"].startswith(message)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


@pytest.mark.parametrize(
    ("grader", "param", "message"),
    [
        (EXACT | {"input": "{{ sample.text }}"}, "grader.input", "`{{ sample.text }}` in 'grader.input' will never be there: `sample` has output_text, output_json"),
        (with_part("{{ sample[0] }}"), "grader.input[0].content", "`{{ sample[0] }}` in 'grader.input[0].content' will never be there"),
        (multi(a=EXACT | {"reference": "{{ sample.nope }}"}) | {"calculate_output": "a"}, "grader.graders.a.reference", "`{{ sample.nope }}` in 'grader.graders.a.reference' will never be there"),
        (MULTI | {"calculate_output": "exact * (1 + alike"}, "grader.calculate_output", "Invalid value for 'grader.calculate_output': `)` is missing before the end"),
        (MULTI | {"calculate_output": "inexact"}, "grader.calculate_output", "Invalid value for 'grader.calculate_output': `inexact` is no grader of this formula; they are alike, exact"),
        (PYTHON | {"source": "def grade(sample, item):\n    retrun 1"}, "grader.source", "Invalid value for 'grader.source': SyntaxError: invalid syntax (grader.py, line 2)"),
        (MULTI | {"graders": [EXACT, PYTHON | {"source": "x = 1"}], "calculate_output": "own"}, "grader.graders[1].source", "Invalid value for 'grader.graders[1].source': The source defines no function `grade(sample, item)`"),
    ],
)  # fmt: skip
async def test_what_a_run_would_tell_of_any_answer_is_refused_when_validated(http, grader, param, message):
    answer = await http.post(VALIDATE, json={"grader": grader})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
    assert error["message"].startswith(message)
    run = await http.post(RUN, json={"grader": grader, "model_sample": "42", "item": {"answer": "42"}})
    assert (run.status_code, run.json()["reward"]) == (200, 0.0)
    assert run.json()["metadata"]["errors"]["details"]


@pytest.mark.parametrize("path", [RUN, VALIDATE])
@pytest.mark.parametrize(
    ("grader", "param"),
    [(JUDGE | {"model": "nobody"}, "grader.model"), (multi(a=JUDGE | {"model": "nobody"}), "grader.graders.a.model")],
)
async def test_a_judge_that_does_not_exist_is_a_404(http, path, grader, param):
    answer = await http.post(path, json={"grader": grader, "model_sample": "42"} if path == RUN else {"grader": grader})
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "The model `nobody` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": param,
        "code": "model_not_found",
    }


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"grader": EXACT}, "model_sample", "Missing required parameter: 'model_sample'."),
        ({"model_sample": "42"}, "grader", "Missing required parameter: 'grader'."),
        ({"grader": EXACT, "model_sample": {"text": "42"}}, "model_sample", "Invalid type for 'model_sample': expected a string, but got an object instead."),
        ({"grader": EXACT, "model_sample": "42", "item": [1]}, "item", "Invalid type for 'item': expected an object, but got an array instead."),
        ({"grader": EXACT, "model_sample": "42", "reference_answer": "1"}, None, "Unrecognized request argument supplied: reference_answer"),
    ],
)  # fmt: skip
async def test_a_bad_run_is_a_400(http, body, param, message):
    answer = await http.post(RUN, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["message"] == message


async def test_a_key_is_needed(client):
    stranger = client.copy(api_key="sk-nobody")
    with pytest.raises(openai.AuthenticationError):
        await stranger.fine_tuning.alpha.graders.validate(grader=EXACT)
