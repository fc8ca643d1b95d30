"""The engine answers for bases of other families as transformers and peft do, and the same bits in any company."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from milepost.modeling import adapters as files
from milepost.modeling import kernels
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.base import load_base
from milepost.modeling.decode import can_decode
from milepost.modeling.template import load_chat
from milepost.resources.models import Base
from milepost.resources.runs import Source
from milepost.serving.adapters import Adapters
from milepost.serving.core import Core
from milepost.serving.protocol import Generation
from milepost.serving.scheduler import Scheduler
from tests.serving.steps import RecordingRunner, finish

#: Each with something of its own: biases, norms of heads, windows, caps, other modules.
NAMES = ["qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt-neox"]
QUESTION = ({"role": "user", "content": "Which checkpoint is best?"},)


@pytest.fixture(params=NAMES)
def folder(request, family):
    return family(request.param)


def source(folder):
    card = Base.model_validate_json((folder / "base.json").read_bytes())
    return Source(name=card.name, path=str(folder), hash=card.hash)


@pytest.fixture
def tuned(folder, tmp_path):
    """Three random adapters: two of all modules, one of some."""
    card = Base.model_validate_json((folder / "base.json").read_bytes())
    model = load_base(folder, torch.float32)
    made = []
    for seed, targets in enumerate((card.targets, card.targets, card.targets[::2])):
        out = tmp_path / f"step-{seed}"
        out.mkdir()
        config = AdapterConfig(rank=4, alpha=8.0, base_hash=card.hash, targets=targets)
        generator = torch.Generator().manual_seed(seed)
        shapes = files.shapes(model.config, 4, targets)
        content = files.adapter_bytes({n: torch.randn(s, generator=generator) * 0.15 for n, s in shapes}, config)
        (out / "adapter_model.safetensors").write_bytes(content)
        (out / "adapter_config.json").write_text(json.dumps(files.peft_config(config, str(folder))))
        made.append(Source(name=f"ft:{seed}", path=str(out), hash=hashlib.sha256(content).hexdigest()))
    return made


def core_of(folder, dtype=torch.float32):
    model = load_base(folder, dtype)
    used = kernels.load(folder.parent / "kernels") if can_decode(model) else None
    adapters = Adapters(model, base_hash=source(folder).hash, slots=4, kernels=used)
    runner = RecordingRunner(model, adapters, rows=8, kernels=used)
    return Core(load_chat(folder), Scheduler(adapters, rows=8), runner), runner


def generation(folder, adapter, **changed):
    given = {"messages": QUESTION, "temperature": 0, "max_tokens": 12, "logit_bias": {258: -100}} | changed
    return Generation(base=source(folder), adapter=adapter, **given)


def test_each_adapter_in_a_mixed_batch_answers_as_peft_generates(folder, tuned):
    core, runner = core_of(folder)
    finish(core, [generation(folder, adapter) for adapter in (None, *tuned)])
    prompt = load_chat(folder).encode(QUESTION, add_generation_prompt=True)
    answers = []
    for number, adapter in enumerate((None, *tuned)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        if adapter:
            model = PeftModel.from_pretrained(model, adapter.path)
        found = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, suppress_tokens=[258], pad_token_id=0
        )
        answers.append(found[0, len(prompt) :].tolist())
        _, logits = runner.seen(number)
        logits[:, 258] = -torch.inf
        assert logits.argmax(-1).tolist() == answers[-1]
    assert len(set(map(tuple, answers))) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_in_any_company(folder, tuned, dtype):
    core, alone = core_of(folder, dtype)
    finish(core, [generation(folder, tuned[0])])
    others = [
        generation(folder, [None, *tuned][i % 4], prompt="x" * (9 * i + 1), messages=None, max_tokens=2 + i % 9)
        for i in range(7)
    ]
    core, together = core_of(folder, dtype)
    finish(core, [*others, generation(folder, tuned[0])])
    assert torch.equal(together.seen(7)[1], alone.seen(0)[1])


def test_without_a_template_texts_are_completed_and_messages_refused(tiny_base, base):
    folder = tiny_base
    model = load_base(folder, torch.float32)
    adapters = Adapters(model, base_hash=base.hash, slots=1)
    chat = replace(load_chat(folder), template=None)
    core = Core(chat, Scheduler(adapters, rows=4), RecordingRunner(model, adapters, rows=4))
    asked = Generation(base=base, temperature=0, max_tokens=3, logit_bias={258: -100}, prompt="Once")
    answered, refused = finish(core, [asked, asked.model_copy(update={"prompt": None, "messages": QUESTION})])
    assert answered[-1].completion_tokens == 3
    assert (refused[0].kind, refused[0].param) == ("Invalid", "messages")
    assert refused[0].message.startswith(
        "This base model has no chat template, so it does not take messages. Use texts"
    )
