"""The engine without its process: what it answers, and that no answer depends on who else is being served."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from milepost.modeling import kernels
from milepost.modeling.base import load_base
from milepost.modeling.template import load_chat
from milepost.resources.runs import ADAPTER_WEIGHTS
from milepost.serving.adapters import Adapters
from milepost.serving.core import Core
from milepost.serving.protocol import Cancel, Chunk, Failure, Generate, Generation, Load, Loaded, Usage
from milepost.serving.scheduler import Scheduler
from tests.serving.steps import RecordingRunner, finish, text_of

QUESTION = ({"role": "user", "content": "Which checkpoint is best?"},)


#: Numbers, and whether what lies between the products is compiled.
KINDS = [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
EACH_KIND = pytest.mark.parametrize(("dtype", "is_compiled"), KINDS, ids=["fp32", "bf16", "bf16, compiled"])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return kernels.load(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def make_core(tiny_base, base, compiled):
    def make(dtype=torch.float32, is_compiled=False, *, chat=None, rows=8, slots=8, prefix_bytes=0, kept_bytes=0):
        if is_compiled and compiled is None:
            pytest.skip("no compiler")
        used = compiled if is_compiled else None
        model = load_base(tiny_base, dtype)
        adapters = Adapters(model, base_hash=base.hash, slots=slots, kept_bytes=kept_bytes, kernels=used)
        runner = RecordingRunner(model, adapters, rows=rows, prefix_bytes=prefix_bytes, kernels=used)
        return Core(chat or load_chat(tiny_base), Scheduler(adapters, rows=rows), runner), runner

    return make


@pytest.fixture
def core(make_core):
    return make_core()[0]


@pytest.fixture(scope="module")
def sources(make_adapter):
    return [make_adapter(seed) for seed in range(8)]


@pytest.fixture
def greedy(base):
    def request(**changed):
        return Generation(base=base, **{"messages": QUESTION, "temperature": 0, "max_tokens": 12} | changed)

    return request


def offline(tiny_base, source, tokens, count):
    """Greedy tokens and the logits they were chosen by, computed again with transformers and peft, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    if source:
        model = PeftModel.from_pretrained(model, source.path)
    logits = []
    for _ in range(count):
        logits.append(model(torch.tensor([tokens])).logits[0, -1])
        tokens = [*tokens, int(logits[-1].argmax())]
    return tokens[-count:], torch.stack(logits)


def test_eight_adapters_give_eight_answers_each_its_own(tiny_base, core, sources, greedy):
    asked = [greedy(adapter=source) for source in [None, *sources]]
    texts = [text_of(found) for found in finish(core, asked)]
    chat = load_chat(tiny_base)
    prompt = chat.encode(QUESTION, add_generation_prompt=True)
    expected = [chat.decode(offline(tiny_base, source, prompt, 12)[0]) for source in [None, *sources]]
    assert texts == expected
    assert len(set(texts)) == 9


@EACH_KIND
def test_logits_are_those_of_transformers_and_peft(tiny_base, make_core, sources, greedy, dtype, is_compiled):
    """Root mean square of the difference to fp32; the logits' own is 2. PEFT in bf16 is off by 0.05 to 0.10 here."""
    core, runner = make_core(dtype, is_compiled)
    finish(core, [greedy(adapter=sources[0]), greedy(adapter=sources[1])])
    prompt = load_chat(tiny_base).encode(QUESTION, add_generation_prompt=True)
    tokens, logits = runner.seen(0)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), sources[0].path
    )
    expected = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    assert (logits - expected).square().mean().sqrt() < {torch.float32: 1e-5, torch.bfloat16: 0.12}[dtype]


@EACH_KIND
@pytest.mark.parametrize("company", [1, 3, 6, 12, 31])
def test_the_same_bits_in_any_company(make_core, sources, greedy, dtype, is_compiled, company):
    core, alone = make_core(dtype, is_compiled, rows=32)
    finish(core, [greedy(adapter=sources[3])])
    others = [
        greedy(adapter=[None, *sources][i % 9], prompt="x" * (9 * i + 1), messages=None, max_tokens=2 + i % 9)
        for i in range(company)
    ]
    core, together = make_core(dtype, is_compiled, rows=32)
    finish(core, [*others, greedy(adapter=sources[3])])
    assert torch.equal(together.seen(company)[1], alone.seen(0)[1])


def test_drawn_answers_do_not_depend_on_company(make_core, sources, greedy):
    request = greedy(adapter=sources[0], temperature=1.0, top_p=0.9, seed=11)
    others = [greedy(adapter=source, temperature=1.0) for source in sources[1:4]]
    assert finish(make_core()[0], [*others, request])[-1] == finish(make_core()[0], [request])[-1]


def test_choices_of_one_seed_differ_and_come_again(core, greedy):
    (first,) = finish(core, [greedy(n=3, temperature=1.0, seed=5)])
    (again,) = finish(core, [greedy(n=3, temperature=1.0, seed=5)])
    texts = [text_of(first, index) for index in range(3)]
    assert texts == [text_of(again, index) for index in range(3)]
    assert len(set(texts)) == 3


def test_choices_without_a_seed_differ_from_time_to_time(core, greedy):
    (first,), (again,) = finish(core, [greedy(temperature=2.0)]), finish(core, [greedy(temperature=2.0)])
    assert text_of(first) != text_of(again)


def test_more_choices_than_rows_all_come(make_core, greedy):
    (found,) = finish(make_core(rows=4)[0], [greedy(n=10)])
    assert len({text_of(found, index) for index in range(10)}) == 1
    assert found[-1] == Usage(prompt_tokens=44, completion_tokens=120)


def test_max_tokens_ends_with_length(core, greedy):
    (found,) = finish(core, [greedy(max_tokens=3)])
    assert (found[-2].finish_reason, found[-1].completion_tokens) == ("length", 3)


def test_without_max_tokens_the_rest_of_the_context_is_the_limit(core, base):
    prompt = "x" * 2040
    (found,) = finish(core, [Generation(base=base, prompt=prompt, temperature=0)])
    assert found[-1] == Usage(prompt_tokens=2040, completion_tokens=8)


def test_a_stop_string_ends_an_answer_before_it(core, greedy):
    (whole,) = finish(core, [greedy(max_tokens=40)])
    text = text_of(whole)
    (found,) = finish(core, [greedy(max_tokens=40, stop=(text[5:8],))])
    assert text_of(found) == text[: text.index(text[5:8])]
    assert found[-2].finish_reason == "stop"


def test_an_end_token_ends_an_answer_and_is_not_told(tiny_base, make_core, greedy):
    chat = load_chat(tiny_base)
    prompt = chat.encode(QUESTION, add_generation_prompt=True)
    tokens, _ = offline(tiny_base, None, prompt, 12)
    ending = replace(chat, end_ids=frozenset({tokens[-1]}))
    (found,) = finish(make_core(chat=ending)[0], [greedy(max_tokens=20)])
    told = tokens[: tokens.index(tokens[-1])]
    assert (text_of(found), found[-2].finish_reason) == (chat.decode(told), "stop")
    assert found[-1].completion_tokens == len(told) + 1


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(core, base):
    messages = ({"role": "user", "content": "x" * 3000},)
    (found,) = finish(core, [Generation(base=base, messages=messages)])
    assert found == [
        Failure(
            kind="Invalid",
            message="This model's maximum context length is 2048 tokens. However, your messages resulted in 3019 "
            "tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )
    ]


def test_an_empty_prompt_is_refused(core, base):
    (found,) = finish(core, [Generation(base=base, prompt="")])
    assert (found[0].kind, found[0].param) == ("Invalid", "prompt")


def test_an_adapter_that_is_gone_is_an_error_and_the_others_go_on(core, greedy, make_adapter, sources):
    gone = make_adapter(20)
    (Path(gone.path) / ADAPTER_WEIGHTS).unlink()
    first, second, third = finish(core, [greedy(), greedy(adapter=gone), greedy(adapter=sources[0])])
    assert [answer.kind for answer in second] == ["Corrupt"]
    assert isinstance(first[-1], Usage)
    assert isinstance(third[-1], Usage)


def test_a_load_is_answered_when_the_adapter_lies_in_its_slot(core, sources):
    core.take(Load(id=1, adapter=sources[0]))
    assert [(answer.id, answer.body) for answer in core.step()] == [(1, Loaded())]


def test_a_load_of_a_missing_adapter_fails(core, make_adapter):
    gone = make_adapter(21)
    (Path(gone.path) / ADAPTER_WEIGHTS).unlink()
    core.take(Load(id=1, adapter=gone))
    assert [answer.body.kind for answer in core.step()] == ["Corrupt"]


def test_more_adapters_than_slots_all_answer(make_core, sources, greedy):
    asked = [greedy(adapter=source) for source in sources]
    assert finish(make_core(slots=2)[0], asked) == finish(make_core(slots=8)[0], asked)


def test_the_first_in_line_is_answered_first(make_core, greedy):
    core, _ = make_core(rows=4)
    for number in range(6):
        core.take(Generate(id=number, generation=greedy(max_tokens=2)))
    ended = [answer.id for _ in range(20) for answer in core.step() if isinstance(answer.body, Usage)]
    assert ended == [0, 1, 2, 3, 4, 5]


def test_a_long_prompt_does_not_stop_running_answers(core, base, greedy):
    core.take(Generate(id=1, generation=greedy(max_tokens=50)))
    core.step()
    core.take(Generate(id=2, generation=Generation(base=base, prompt="x" * 2000, max_tokens=1)))
    for _ in range(7):  # of the eight pieces the prompt is computed in
        assert {answer.id for answer in core.step() if isinstance(answer.body, Chunk)} <= {1}
    assert 2 in {answer.id for answer in core.step()}


def test_a_cancelled_answer_frees_its_row_and_its_slot(make_core, greedy, sources):
    core, _ = make_core(rows=4, slots=1)
    core.take(Generate(id=1, generation=greedy(adapter=sources[0], max_tokens=1000)))
    core.step()
    core.take(Cancel(id=1))
    (found,) = finish(core, [greedy(adapter=sources[1])])
    assert found[-1] == Usage(prompt_tokens=44, completion_tokens=12)


def test_a_request_cancelled_in_line_is_not_answered(make_core, greedy):
    core, _ = make_core(rows=4)
    core.take(Generate(id=1, generation=greedy()))
    core.take(Generate(id=2, generation=greedy()))
    core.take(Cancel(id=2))
    assert {answer.id for _ in range(20) for answer in core.step()} == {1}
    assert core.is_idle


def test_the_rest_of_a_batch_is_untouched_when_one_leaves(make_core, greedy, sources):
    core, _ = make_core()
    expected = finish(make_core()[0], [greedy(adapter=sources[1], max_tokens=30)])[0]
    requests = [greedy(max_tokens=n) for n in (3, 30, 9)] + [greedy(adapter=sources[1], max_tokens=30)]
    assert finish(core, requests)[-1] == expected


def test_logprobs_are_those_of_transformers_in_fp32(tiny_base, core, greedy):
    (found,) = finish(core, [greedy(logprobs=3)])
    told = [token for answer in found if isinstance(answer, Chunk) for token in answer.logprobs]
    prompt = load_chat(tiny_base).encode(QUESTION, add_generation_prompt=True)
    tokens, logits = offline(tiny_base, None, prompt, 12)
    expected = torch.log_softmax(logits, -1)
    assert [token.logprob for token in told] == pytest.approx(expected.max(-1).values.tolist(), abs=1e-4)
    assert [[likely.logprob for likely in token.top] for token in told] == [
        pytest.approx(row, abs=1e-4) for row in expected.topk(3).values.tolist()
    ]
    assert [bytes(token.bytes) for token in told] == [load_chat(tiny_base).token_bytes(token) for token in tokens]


def test_logprobs_do_not_depend_on_temperature_or_company(make_core, sources, greedy):
    request = greedy(adapter=sources[0], logprobs=1, temperature=1.3, seed=4)
    others = [greedy(adapter=source) for source in sources[1:4]]
    assert finish(make_core()[0], [*others, request])[-1] == finish(make_core()[0], [request])[-1]


def test_no_logprob_of_a_token_behind_a_stop_string_is_told(core, greedy):
    (whole,) = finish(core, [greedy(max_tokens=40)])
    text = text_of(whole)
    (found,) = finish(core, [greedy(max_tokens=40, stop=(text[5:8],), logprobs=0)])
    chunks = [answer for answer in found if isinstance(answer, Chunk)]
    told = b"".join(bytes(token.bytes) for chunk in chunks for token in chunk.logprobs).decode(errors="replace")
    assert told == text[: text.index(text[5:8])]


def test_a_bias_of_minus_100_rules_a_token_out_and_of_100_in(tiny_base, core, greedy):
    prompt = load_chat(tiny_base).encode(QUESTION, add_generation_prompt=True)
    first = offline(tiny_base, None, prompt, 1)[0][0]
    (without,) = finish(core, [greedy(max_tokens=1, logit_bias={first: -100}, logprobs=0)])
    (only,) = finish(core, [greedy(max_tokens=6, logit_bias={65: 100})])
    assert without[0].logprobs[0].bytes != tuple(load_chat(tiny_base).token_bytes(first))
    assert text_of(only) == load_chat(tiny_base).token_bytes(65).decode(errors="replace") * 6


def test_a_bias_for_no_token_of_the_model_is_refused(core, greedy):
    (found,) = finish(core, [greedy(logit_bias={260: 1})])
    assert (found[0].kind, found[0].param) == ("Invalid", "logit_bias")
    assert found[0].message == "Invalid key in 'logit_bias': 260. This model's tokens are 0 to 259"


def test_a_penalty_ends_repetition(core, greedy):
    """Ten tokens are let in, of which it says one for ever; the penalty brings others to the fore."""
    biased = {"logit_bias": dict.fromkeys(range(65, 75), 20), "max_tokens": 8, "prompt": "AAAA", "messages": None}
    (plain,) = finish(core, [greedy(**biased)])
    (frequency,) = finish(core, [greedy(**biased, frequency_penalty=2)])
    assert len(set(text_of(plain))) == 1
    assert len(set(text_of(frequency))) > 1


@pytest.mark.parametrize("seed", range(8))
def test_a_json_answer_that_ends_by_itself_is_one_json_object(core, greedy, seed):
    """The random model knows no JSON: the grammar alone sees to it. The bias brings it to the end of it."""
    brace, quote = (letter for letter in (92, 1))
    bias = {brace: 15, quote: 8}
    (found,) = finish(core, [greedy(json_object=True, temperature=1.0, seed=seed, max_tokens=400, logit_bias=bias)])
    assert found[-2].finish_reason == "stop"
    assert isinstance(json.loads(text_of(found)), dict)


def test_a_json_answer_cut_short_is_the_beginning_of_one(core, greedy):
    (found,) = finish(core, [greedy(json_object=True, max_tokens=5)])
    assert found[-2].finish_reason == "length"
    assert text_of(found).lstrip().startswith("{")


def test_where_weights_give_no_numbers_json_is_refused_and_neighbours_answer(core, greedy, make_adapter, sources):
    alone = finish(core, [greedy(adapter=sources[0])])[0]
    diverged = make_adapter(99, size=1e15)
    asked = [
        greedy(adapter=diverged, json_object=True, temperature=1.0, n=3),
        greedy(adapter=sources[0]),
        greedy(adapter=diverged, json_object=True, temperature=1.0),
    ]
    first, neighbour, last = finish(core, asked)
    assert [(found[0].kind, found[0].param) for found in (first, last)] == [("Invalid", "model")] * 2
    assert "logits are not numbers" in first[0].message
    assert neighbour == alone
    assert finish(core, [greedy(adapter=sources[0])])[0] == alone


def test_an_echo_tells_the_prompt_and_what_the_model_gave_it(tiny_base, core, base):
    text = "Which checkpoint?"
    (found,) = finish(core, [Generation(base=base, prompt=text, max_tokens=0, echo=True, logprobs=1)])
    prompt = load_chat(tiny_base).encode_text(text)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    expected = torch.log_softmax(model(torch.tensor([prompt])).logits[0], -1)
    assert text_of(found) == text
    assert found[0].logprobs[0].logprob is None
    assert [token.logprob for token in found[0].logprobs[1:]] == pytest.approx(
        [row[token].item() for row, token in zip(expected, prompt[1:], strict=False)], abs=1e-4
    )
    assert (found[-2].finish_reason, found[-1]) == ("length", Usage(prompt_tokens=len(prompt), completion_tokens=0))


@pytest.mark.parametrize("as_tokens", [False, True])
def test_an_echo_is_the_prompt_with_its_special_tokens(tiny_base, core, base, as_tokens):
    text = "<|im_start|>user\nHi"
    tokens = tuple(load_chat(tiny_base).encode_text(text))
    asked = Generation(base=base, prompt=tokens if as_tokens else text, max_tokens=0, echo=True, logprobs=0)
    (found,) = finish(core, [asked])
    assert text_of(found) == text
    assert b"".join(bytes(token.bytes) for token in found[0].logprobs).decode() == text


def test_a_token_put_before_a_prompt_adds_nothing_to_its_echo(tiny_base, make_core, base):
    chat = replace(load_chat(tiny_base), lead=(257,))
    (found,) = finish(
        make_core(chat=chat)[0], [Generation(base=base, prompt="Hi", max_tokens=0, echo=True, logprobs=0)]
    )
    assert text_of(found) == "Hi"
    assert [bytes(token.bytes) for token in found[0].logprobs] == [b"", b"H", b"i"]


def test_an_empty_prompt_is_refused_but_where_a_token_is_put_before_it(tiny_base, make_core, base):
    asked = Generation(base=base, prompt="", max_tokens=2)
    (found,) = finish(make_core()[0], [asked])
    assert (found[0].param, found[0].message) == (
        "prompt",
        "The prompt is empty; give at least one token to go on from",
    )
    (found,) = finish(make_core(chat=replace(load_chat(tiny_base), lead=(257,)))[0], [asked])
    assert found[-1] == Usage(prompt_tokens=1, completion_tokens=2)


def test_tokens_may_be_given_instead_of_text(tiny_base, core, base):
    tokens = tuple(load_chat(tiny_base).encode_text("Once"))
    asked = [Generation(base=base, prompt=prompt, temperature=0, max_tokens=5) for prompt in ("Once", tokens)]
    first, second = finish(core, asked)
    assert first == second


def order_of_ends(core):
    ended = []
    while not core.is_idle:
        ended += [answer.id for answer in core.step() if isinstance(answer.body, Usage)]
    return ended


def test_clients_take_turns_so_that_many_prompts_do_not_keep_one_waiting(make_core, greedy):
    core, _ = make_core(rows=4)
    for number in range(20):
        core.take(Generate(id=number, generation=greedy(max_tokens=2, client="many")))
    core.take(Generate(id=100, generation=greedy(max_tokens=2, client="one")))
    assert order_of_ends(core).index(100) == 1


@pytest.mark.parametrize("client", ["many", "one"])
def test_many_choices_let_another_request_have_its_turn(make_core, greedy, client):
    core, _ = make_core(rows=4)
    core.take(Generate(id=1, generation=greedy(n=12, max_tokens=4, client="many")))
    for number in (2, 3):
        core.take(Generate(id=number, generation=greedy(max_tokens=4, client=client)))
    assert order_of_ends(core) == [2, 3, 1]


def test_choices_that_gave_way_are_those_that_would_have_been_made_at_once(make_core, greedy, base, sources):
    text = "Which checkpoint? " * 20
    many = greedy(
        n=10,
        temperature=1.0,
        seed=3,
        client="many",
        adapter=sources[2],
        messages=None,
        prompt=text,
        echo=True,
        logprobs=1,
    )
    (alone,) = finish(make_core(rows=4)[0], [many])
    beside, _ = finish(make_core(rows=4)[0], [many, greedy(client="one")])
    assert [text_of(beside, index) for index in range(10)] == [text_of(alone, index) for index in range(10)]
    told = [chunk.logprobs for chunk in beside if isinstance(chunk, Chunk) and chunk.text == text]
    assert (len(told), len(set(told)), len(told[0])) == (10, 1, len(text))
    assert beside[-1] == alone[-1]


def test_a_request_that_gave_way_can_be_cancelled(make_core, greedy):
    core, _ = make_core(rows=4)
    core.take(Generate(id=1, generation=greedy(n=12, max_tokens=4, client="many")))
    core.take(Generate(id=2, generation=greedy(max_tokens=4, client="one")))
    core.step()
    core.take(Cancel(id=1))
    core.step()
    told = [answer.id for _ in range(40) for answer in core.step() if isinstance(answer.body, Chunk)]
    assert set(told) == {2}
    assert core.is_idle


MB = 2**20
LONG = "You answer questions about training runs, and nothing else. " * 12  # 720 tokens: two whole pieces


@EACH_KIND
@pytest.mark.parametrize("company", [0, 2, 31])
def test_logits_are_the_same_bits_with_and_without_reuse(make_core, sources, greedy, dtype, is_compiled, company):
    asked = greedy(adapter=sources[3], messages=None, prompt=LONG + "Why?")
    others = [
        greedy(adapter=[None, *sources][i % 9], prompt=LONG[: 60 * (i % 12) + 1], messages=None, max_tokens=2 + i % 9)
        for i in range(company)
    ]
    without, fresh = make_core(dtype, is_compiled, rows=32)
    finish(without, [asked])
    core, runner = make_core(dtype, is_compiled, rows=32, prefix_bytes=64 * MB)
    finish(core, [greedy(adapter=sources[3], messages=None, prompt=LONG + "How?")])
    found = finish(core, [*others, asked][::-1])[0]
    assert found[-1].cached_tokens == 512
    # request 0 of both calls: the first's twelve tokens come before
    assert torch.equal(runner.seen(0)[1][12:], fresh.seen(0)[1])


SYSTEM = "You are terse, you know every checkpoint, and you answer in one line."


def chat(question, system=SYSTEM):
    return ({"role": "system", "content": system}, {"role": "user", "content": question})


@EACH_KIND
@pytest.mark.parametrize("system", [SYSTEM, SYSTEM * 6], ids=["short", "long"])
def test_a_system_prompt_is_computed_once_to_the_same_bits(
    tiny_base, make_core, sources, greedy, dtype, is_compiled, system
):
    asked, other = (greedy(adapter=sources[3], messages=chat(each, system)) for each in ("Which is best?", "Why?"))
    without, fresh = make_core(dtype, is_compiled)
    finish(without, [asked])
    core, runner = make_core(dtype, is_compiled, prefix_bytes=64 * MB)
    (first,) = finish(core, [other])
    (found,) = finish(core, [asked])
    encoded = load_chat(tiny_base).encode(chat("", system), add_generation_prompt=False)
    before = len(encoded) - len(load_chat(tiny_base).encode_text("<|im_end|>\n"))
    assert (first[-1].cached_tokens, found[-1].cached_tokens) == (0, before)
    assert torch.equal(runner.seen(0)[1][12:], fresh.seen(0)[1])


@pytest.mark.parametrize(
    "messages",
    [QUESTION, chat("Why?", "Be terse."), chat("Why?", SYSTEM + " Or not."), (*chat("Why?")[::-1], *QUESTION)],
    ids=["none", "short", "another", "not the first"],
)
def test_what_does_not_begin_with_the_same_system_prompt_reuses_nothing(make_core, greedy, messages):
    core, _ = make_core(prefix_bytes=64 * MB)
    finish(core, [greedy(messages=chat("Which?"))])
    assert finish(core, [greedy(messages=messages)])[0][-1].cached_tokens == 0


def test_a_prompt_that_is_whole_pieces_reuses_all_but_the_last(make_core, greedy):
    core, _ = make_core(prefix_bytes=64 * MB)
    asked = greedy(messages=None, prompt=LONG[:512])
    (first,) = finish(core, [asked])
    (again,) = finish(core, [asked])
    assert (first[-1].cached_tokens, again[-1].cached_tokens) == (0, 256)
    assert text_of(again) == text_of(first)


@pytest.mark.parametrize(
    "other", [{"adapter": 1}, {"adapter": None}, {"client": "other"}, {"prompt": "!" + LONG}], ids=str
)
def test_nothing_is_reused_across_adapters_clients_or_other_beginnings(make_core, sources, greedy, other):
    """Trap 22. The same tokens under another adapter have other keys and values."""
    if "adapter" in other:
        other = other | {"adapter": other["adapter"] and sources[other["adapter"]]}
    given = {"adapter": sources[0], "messages": None, "prompt": LONG, "client": "one"}
    core, _ = make_core(prefix_bytes=64 * MB)
    finish(core, [greedy(**given)])
    (found,) = finish(core, [greedy(**given | other)])
    (fresh,) = finish(make_core()[0], [greedy(**given | other)])
    assert found == fresh
    assert found[-1].cached_tokens == 0


def test_prompts_are_kept_within_their_memory_the_least_used_going_first(make_core, greedy):
    core, _ = make_core(prefix_bytes=3 * 256 * 2 * 2 * 2 * 16 * 4)
    first, second, third = (greedy(messages=None, prompt=word + LONG[:300]) for word in "abc")
    finish(core, [first, second, third, first])
    cached = [
        found[-1].cached_tokens for found in finish(core, [greedy(messages=None, prompt="d" + LONG[:300]), first])
    ]
    assert cached == [0, 256]
    assert finish(core, [second])[0][-1].cached_tokens == 0


def test_the_logprobs_of_a_prompt_are_computed_even_if_it_is_known(make_core, greedy):
    core, _ = make_core(prefix_bytes=64 * MB)
    asked = greedy(messages=None, prompt=LONG, echo=True, logprobs=1, max_tokens=1)
    (first,) = finish(core, [asked])
    (again,) = finish(core, [asked])
    assert again == first
    assert len(first[0].logprobs) == len(LONG)


def test_two_hundred_adapters_asked_at_random_each_answer_as_themselves(make_core, make_adapter, greedy):
    """Dozens are kept in memory, four lie in slots, the others are read again; none is another's answer."""
    many = [make_adapter(1000 + seed) for seed in range(200)]
    one = make_core(slots=1)[0]
    short = {"max_tokens": 3, "messages": None, "prompt": "Which?"}
    order = random.Random(7).choices(range(200), k=300)
    expected = {number: text_of(finish(one, [greedy(adapter=many[number], **short)])[0]) for number in set(order)}
    core, _ = make_core(slots=4, kept_bytes=4 * MB)
    found = finish(core, [greedy(adapter=many[number], **short) for number in order])
    assert [text_of(answers) for answers in found] == [expected[number] for number in order]
    assert len(set(expected.values())) > 100
