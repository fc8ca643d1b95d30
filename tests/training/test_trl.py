"""Ours equals TRL's: the same batches through both, in fp32, twenty steps long.

What must agree, step by step: the loss, the gradient that the optimizer is given (after clipping), and the weights in
the end. Differences are those of fp32 sums in another order, which grow as the two runs feed on them.
"""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.adapters import adapter_bytes, peft_config
from milepost.modeling.base import load_config
from milepost.modeling.folders import file_hash
from milepost.modeling.lora import fresh_tensors
from milepost.resources.methods import MethodType
from milepost.resources.runs import Source
from milepost.training.directory import held
from milepost.training.loop import Trainer, _first_state
from milepost.training.run import main
from tests.training.conftest import chats, preferences
from tests.training.reading import events

STEPS, BATCH = 20, 4
LOSS_TOLERANCE = 5e-5  # nats
GRADIENT_TOLERANCE = 3e-4  # of the gradient's own norm
WEIGHT_TOLERANCE = 1e-3  # of how far the weights have moved
WEIGHTS = "adapter_model.safetensors"

RUN = {
    "n_epochs": 4,
    "batch_size": BATCH,
    "learning_rate": 2e-3,
    "warmup_ratio": 0.0,
    "weight_decay": 0.01,
    "lora_rank": None,
    "lora_alpha": None,
    "beta": 0.2,
}
LINES = {MethodType.SUPERVISED: chats, MethodType.DPO: preferences}


@pytest.fixture(scope="module")
def trl():
    """Imported when it is needed: it takes as long as all tests of this folder's collection."""
    import trl

    return trl


@pytest.fixture(params=["fresh", "continued"])
def start(make_run, tiny_base, tmp_path, request):
    """A fresh adapter, or a trained one."""
    if request.param == "continued":
        run = make_run("first", hyperparameters={"n_epochs": 1})
        main(run)
        return run / "checkpoints/step-6"
    folder = tmp_path / "fresh"
    folder.mkdir()
    model = load_config(tiny_base)
    config = AdapterConfig(4, 8.0, json.loads((tiny_base / "base.json").read_text())["hash"])
    (folder / WEIGHTS).write_bytes(adapter_bytes(fresh_tensors(model, 4, seed=7), config))
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(config, str(tiny_base))))
    return folder


@pytest.fixture
def ours(make_run, start):
    """Train with ours: returns the examples in their order, losses, gradients and the last weights."""

    def train(method):
        adapter = Source(name="start", path=str(start), hash=file_hash(start / WEIGHTS))
        run = make_run("ours", method=method, training=LINES[method](20), adapter=adapter, hyperparameters=RUN)
        examples, gradients = [], []
        with held(run) as directory:
            trainer = Trainer(directory, _first_state(directory))
            lora, optimizer = trainer._lora, trainer._optimizer
            trainer.say_how()
            before = torch.zeros_like(lora.flat)
            for step in trainer.steps_left():
                examples += [trainer._training[i] for i in trainer.plan.indices(step)]
                trainer.take(step)
                average = optimizer.state[lora.flat]["exp_avg"]
                gradients.append((average - 0.9 * before) / 0.1)  # what AdamW was given, from its moving average
                before = average.clone()
        losses = [event["data"]["train_loss"] for event in events(run)[2:]]
        return examples, losses, gradients, load_file(run / f"checkpoints/step-{STEPS}" / WEIGHTS)

    return train


class Watch(TrainerCallback):
    """Keeps the gradients as the optimizer finds them."""

    def __init__(self):
        self.gradients = []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        named = (p.grad for name, p in sorted_parameters(model))
        self.gradients.append(torch.cat([grad.flatten().clone() for grad in named]))


def sorted_parameters(model):
    return sorted((name, value) for name, value in model.named_parameters() if value.requires_grad)


def reference(start, tiny_base):
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    return PeftModel.from_pretrained(base, start, is_trainable=True)


def watched(trainer_class):
    """TRL's trainer with the losses of its steps kept."""

    class Watched(trainer_class):
        losses = ()

        def _prepare_dataset(self, dataset, *_, **__):
            return dataset  # tokenised already

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            self.losses = (*self.losses, loss.item())
            return loss

    return Watched


def settings(config_class, tmp_path, **extra):
    return config_class(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RUN["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=RUN["weight_decay"],
        max_grad_norm=1.0,
        optim="adamw_torch",
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        max_length=None,
        **extra,
    )


def train_theirs(trainer_class, args, rows, start, tiny_base):
    from datasets import Dataset

    watch = Watch()
    trainer = watched(trainer_class)(
        model=reference(start, tiny_base),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_base),
        callbacks=[watch],
    )
    trainer.train()
    weights = {name.replace(".default", ""): value.detach() for name, value in sorted_parameters(trainer.model)}
    return trainer.losses, watch.gradients, weights


def compare(ours, theirs, start):
    _, losses, gradients, weights = ours
    their_losses, their_gradients, their_weights = theirs
    names = list(load_file(start / WEIGHTS))
    assert len(losses) == len(their_losses) == STEPS
    assert losses == pytest.approx(their_losses, abs=LOSS_TOLERANCE)
    assert losses[-1] < losses[0]
    sizes = [weights[name].numel() for name in names]
    assert sum(sizes) == len(gradients[0])
    for mine, yours in zip(gradients, their_gradients, strict=True):
        assert (in_order(mine, weights) - yours).norm() < GRADIENT_TOLERANCE * yours.norm()
    begin = load_file(start / WEIGHTS)
    moved = sum((weights[name] - begin[name]).pow(2).sum() for name in names).sqrt()
    apart = sum((weights[name] - their_weights[name]).pow(2).sum() for name in names).sqrt()
    assert apart < WEIGHT_TOLERANCE * moved


def in_order(flat, weights):
    """Our flat gradient in the order of the names, which is how theirs is put together."""
    from milepost.modeling.adapters import key
    from milepost.modeling.llama import FUSED

    order = [
        key(f"model.layers.{layer}.{part}", side)
        for layer in range(2)
        for parts in FUSED.values()
        for side in "AB"
        for part in parts
    ]
    parts = dict(zip(order, flat.split([weights[name].numel() for name in order]), strict=True))
    return torch.cat([parts[name] for name in sorted(parts)])


def test_supervised_training_equals_trls(trl, ours, start, tiny_base, tmp_path):
    mine = ours(MethodType.SUPERVISED)
    rows = [
        {
            "input_ids": list(one.tokens),
            "labels": [token if learnt else -100 for token, learnt in zip(one.tokens, one.learnt, strict=True)],
        }
        for one in mine[0]
    ]
    args = settings(trl.SFTConfig, tmp_path, dataset_kwargs={"skip_prepare_dataset": True})
    compare(mine, train_theirs(trl.SFTTrainer, args, rows, start, tiny_base), start)


def test_preference_training_equals_trls(trl, ours, start, tiny_base, tmp_path):
    mine = ours(MethodType.DPO)
    rows = [
        {
            "prompt_ids": list(pair.preferred.tokens[: pair.preferred.learnt.index(1)]),
            "chosen_ids": answer_of(pair.preferred),
            "rejected_ids": answer_of(pair.non_preferred),
        }
        for pair in mine[0]
    ]
    args = settings(trl.DPOConfig, tmp_path, beta=RUN["beta"], loss_type="sigmoid")
    compare(mine, train_theirs(trl.DPOTrainer, args, rows, start, tiny_base), start)


def answer_of(example):
    """The learnt tokens; what the template writes behind them is not computed by ours."""
    return [token for token, learnt in zip(example.tokens, example.learnt, strict=True) if learnt]
