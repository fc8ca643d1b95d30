"""What only a real model can show. Needs `milepost pull smollm2-135m-instruct`."""

import os

import pytest
import torch
from transformers import AutoTokenizer

from milepost import config
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.base import load_base
from milepost.modeling.lora import Lora, fresh_tensors
from milepost.modeling.template import load_chat
from milepost.resources.models import Base
from milepost.resources.runs import Source
from milepost.store import bases
from milepost.training import supervised
from milepost.training.data import Example
from milepost.training.run import main
from tests.training.conftest import HYPERPARAMETERS as GIVEN
from tests.training.conftest import questions
from tests.training.reading import events

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]

QUESTIONS = [
    ("How many jobs failed?", "SELECT count(*) FROM openai.fine_tuning.jobs WHERE status = 'failed'"),
    ("List the newest files.", "SELECT id, filename FROM openai.files.files ORDER BY created_at DESC LIMIT 5"),
    ("Which models are mine?", "SELECT id FROM openai.models.models WHERE owned_by = 'personal'"),
    ("When did ftjob-7 finish?", "SELECT finished_at FROM openai.fine_tuning.jobs WHERE id = 'ftjob-7'"),
]


@pytest.fixture(scope="module")
def folder():
    return bases.get(config.load(os.environ), "smollm2-135m-instruct")[1]


@pytest.fixture(scope="module")
def examples(folder):
    chat = load_chat(folder)
    found = []
    for number, (question, answer) in enumerate(QUESTIONS):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        tokens, learnt = chat.example(messages)
        found.append(Example(number, tokens, bytes(learnt), is_cut=False))
    return found


def losses(folder, examples, dtype, steps=8):
    """Mean losses of the same batch, step after step."""
    torch.set_num_threads(1)
    model = load_base(folder, dtype)
    lora = Lora(model, AdapterConfig(16, 32.0, ""), fresh_tensors(model.config, 16, seed=3))
    optimizer = torch.optim.AdamW([lora.flat], lr=2e-4, weight_decay=0.0)
    found = []
    for _ in range(steps):
        (batch,) = supervised.batches(examples)
        loss, score = supervised.loss(lora, lora.linear, batch, GIVEN)
        (loss / supervised.count(examples)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        lora.refresh()
        found.append(score.loss)
    return found


def test_bf16_follows_fp32_step_by_step(folder, examples):
    """Rounded twice, it loses about 0.1 nats from the second step on (reference/training.md)."""
    assert losses(folder, examples, torch.bfloat16) == pytest.approx(losses(folder, examples, torch.float32), abs=0.02)


def test_bf16_stays_within_a_hundredth_of_a_nat_of_fp32_over_fifty_steps(make_run, folder):
    """Whole runs with the rate a job takes by itself: the mean of the steps' differences, and the losses they end at."""
    card = Base.model_validate_json((folder / "base.json").read_bytes())
    base = Source(name=card.name, path=str(folder), hash=card.hash)
    given = {"n_epochs": 1, "batch_size": 2, "learning_rate": 1e-3, "lora_rank": 16}
    found = []
    for dtype in ("float32", "bfloat16"):
        run = make_run(dtype, base=base, dtype=dtype, training=questions(100), hyperparameters=given)
        assert main(run) == 0
        found.append([event["data"]["train_loss"] for event in events(run)[1:]])
    wide, half = found
    apart = [abs(a - b) for a, b in zip(wide, half, strict=True)]
    ends = [sum(each[-10:]) / 10 for each in found]
    assert len(apart) == 50
    assert sum(apart) / 50 < 0.01
    assert ends[1] == pytest.approx(ends[0], abs=0.01)


def test_chats_render_as_in_transformers(folder):
    messages = [
        {"role": "user", "content": "Hello, 世界!"},
        {"role": "assistant", "content": " Hi. "},
        {"role": "user", "content": "Bye"},
    ]
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert load_chat(folder).encode(messages, True) == expected
