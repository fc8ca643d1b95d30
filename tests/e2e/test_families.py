"""A live server with bases of other families: from the upload to the answer of a tuned model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from milepost.modeling.pull import pull
from milepost.modeling.template import load_chat
from tests.e2e.test_server import QUESTION, Live

pytestmark = pytest.mark.e2e

FAMILIES = ["qwen3", "gemma3", "gpt-neox"]
PAIRS = b"".join(json.dumps({"prompt": f"{n} + 1 = ", "completion": str(n + 1)}).encode() + b"\n" for n in range(24))


@pytest.fixture(scope="module")
def bases(family: Callable[[str], Path], tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of the families, and one without a chat template."""
    for name in FAMILIES:
        folder = family(name).parent
    source = shutil.copytree(tiny_base, tmp_path_factory.mktemp("source") / "mute")
    (source / "chat_template.jinja").unlink()
    pull(folder / "mute", "mute", from_dir=source, on_progress=lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def live(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    server = Live(tmp_path_factory.mktemp("live"), bases)
    yield server
    server.stop()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tuned_model_of_a_family_answers_as_transformers_and_peft_compute_it(live, bases, name):
    """A token that the engine took is the likeliest in fp32, whatever it computes in, but for near-ties (0.2 nats)."""
    given = {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.003}
    training = live.upload(24, seed=9)
    job = live.sdk.fine_tuning.jobs.create(model=f"tiny-{name}", training_file=training, seed=7, hyperparameters=given)
    job = live.finish(job.id)
    assert (job.status, job.error) == ("succeeded", None)
    answer = live.sdk.chat.completions.create(
        model=job.fine_tuned_model, messages=QUESTION, max_tokens=8, temperature=0, logprobs=True, top_logprobs=0
    )
    said = [bytes(token.bytes) for token in answer.choices[0].logprobs.content]
    adapter = live.run(job.id) / "checkpoints/step-12"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases / f"tiny-{name}"), adapter)
    chat = load_chat(bases / f"tiny-{name}")
    number = {chat.token_bytes(token): token for token in range(256)}
    prompt, tokens = chat.encode(QUESTION, add_generation_prompt=True), [number[each] for each in said]
    assert tokens
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    taken = logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    assert (logprobs.max(-1).values - taken).max() < 0.2
    told = [token.logprob for token in answer.choices[0].logprobs.content]
    assert told == pytest.approx(taken.tolist(), abs=0.2)


def test_targets_are_those_of_the_base(live):
    training = live.upload(12, seed=3)
    with pytest.raises(openai.BadRequestError, match="Supported values are: 'dense', 'dense_4h_to_h', 'dense_h_to_4h'"):
        live.sdk.fine_tuning.jobs.create(
            model="tiny-gpt-neox", training_file=training, hyperparameters={"lora_targets": ["q_proj"]}
        )


def test_a_base_without_template_learns_texts_and_completes_them(live):
    chats = live.sdk.fine_tuning.jobs.create(model="mute", training_file=live.upload(12, seed=3))
    refused = live.finish(chats.id)
    assert refused.status == "failed"
    assert "This base model has no chat template" in refused.error.message

    pairs = live.sdk.files.create(file=("pairs.jsonl", PAIRS), purpose="fine-tune").id
    job = live.finish(live.sdk.fine_tuning.jobs.create(model="mute", training_file=pairs).id)
    assert (job.status, job.error) == ("succeeded", None)
    found = live.sdk.completions.create(model=job.fine_tuned_model, prompt="3 + 1 = ", max_tokens=4, temperature=0)
    assert found.usage.prompt_tokens == len("3 + 1 = ")
    with pytest.raises(
        openai.BadRequestError, match="This base model has no chat template, so it does not take messages"
    ):
        live.answer(job.fine_tuned_model)
