"""The real base: adapters answer as transformers and peft compute them in fp32, in fp32 and, but for near-ties, in bf16."""

import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from milepost.modeling import kernels
from milepost.modeling.base import load_base
from milepost.modeling.template import load_chat
from milepost.resources.models import Base
from milepost.resources.runs import Source
from milepost.serving.adapters import Adapters
from milepost.serving.core import Core
from milepost.serving.protocol import Generation
from milepost.serving.scheduler import Scheduler
from tests.serving.steps import RecordingRunner, finish

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "milepost/bases/smollm2-135m-instruct"
QUESTION = ({"role": "user", "content": "Which checkpoint of a fine-tuning job is the best one?"},)
LENGTH = 16


@pytest.fixture(scope="module")
def base():
    card = Base.model_validate_json((FOLDER / "base.json").read_bytes())
    return Source(name=card.name, path=str(FOLDER), hash=card.hash)


@pytest.fixture(scope="module")
def sources(make_adapter):
    return [make_adapter(seed, rank=16, size=0.05) for seed in range(3)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return kernels.load(tmp_path_factory.mktemp("kernels"))


def served(base, sources, dtype, compiled=None):
    """(tokens, logits) of each source's greedy answer, all in one batch."""
    model = load_base(FOLDER, dtype)
    adapters = Adapters(model, base_hash=base.hash, slots=8, kernels=compiled)
    runner = RecordingRunner(model, adapters, rows=4, kernels=compiled)
    core = Core(load_chat(FOLDER), Scheduler(adapters, rows=4), runner)
    finish(
        core,
        [
            Generation(base=base, adapter=source, messages=QUESTION, temperature=0, max_tokens=LENGTH)
            for source in sources
        ],
    )
    return [runner.seen(number) for number in range(len(sources))]


def offline(source, tokens):
    """Logits by which each of `tokens` would be chosen, by transformers and peft in fp32."""
    prompt = load_chat(FOLDER).encode(QUESTION, add_generation_prompt=True)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, source.path) if source else model
    with torch.inference_mode():
        return model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]


def test_in_fp32_logits_are_the_same_and_so_are_tokens(base, sources):
    answers = served(base, [None, *sources], torch.float32)
    assert len({tuple(tokens) for tokens, _ in answers}) == 4
    for source, (tokens, logits) in zip([None, *sources], answers, strict=True):
        expected = offline(source, tokens)
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=0)
        assert expected.argmax(-1).tolist() == tokens


def test_in_bf16_tokens_are_the_same_but_for_near_ties(base, sources, compiled):
    answers = served(base, [None, *sources], torch.bfloat16, compiled)
    for source, (tokens, logits) in zip([None, *sources], answers, strict=True):
        expected = offline(source, tokens)
        lost = expected.max(-1).values - expected.gather(-1, torch.tensor(tokens)[:, None]).squeeze(-1)
        difference = (logits - expected).square().mean().sqrt()
        assert difference < 0.08 * expected.std()
        assert lost.max() < 0.5  # nats between the token chosen and the likeliest
