"""Our engine against transformers' `generate` and continuous batching, PEFT's mixed batches and the memory's bandwidth.

All on the same base, threads, dtype and prompts, in turns.

    python bench/serve.py [--threads 2] [--tokens 24] [--rounds 3] [--json FILE]

Prints tokens per second, ratios (ours ÷ theirs) and beside them the floor and whether it is met, and writes it all as
JSON with the machine's load, since another process computing at the same time changes everything. Each number is the
best of the rounds. `first token` is from an adapter's file being there to the first chunk, over the socket, on an engine
that is up. The bound is of one sequence: the bytes of weights that each token reads ÷ the measured bandwidth. llama.cpp
is asked if `make bench-peers` has built it. What goes on beside: `bench/beside.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from milepost.modeling import adapters, kernels
from milepost.modeling.adapters import AdapterConfig
from milepost.modeling.base import choose_dtype, load_base, load_config
from milepost.modeling.template import load_chat
from milepost.resources.models import Base
from milepost.resources.runs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Source
from milepost.serving.adapters import Adapters
from milepost.serving.client import Engines, launcher
from milepost.serving.core import KERNELS, Core
from milepost.serving.protocol import Generate, Generation
from milepost.serving.runner import Runner
from milepost.serving.scheduler import Scheduler

BATCHES = (1, 4, 16)
PROMPT, LONG_PROMPT = 64, 512
ADAPTERS = 8
#: The least that each ratio is to be, and what it aims at; of first tokens, the most milliseconds.
FLOORS = {
    "decode, B = 1": (1.5, 2.5),
    "decode, B = 16": (2.5, 3.5),
    f"decode, B = 16, {ADAPTERS} adapters (theirs: base)": (1.3, 2.0),
    f"decode, B = 16, {ADAPTERS} adapters (theirs: PEFT's adapter_names)": (4.0, 4.0),
    f"prefill {LONG_PROMPT}": (1.0, 1.5),
}
FIRST_TOKEN_MS = {"p50": (200, 100), "p95": (400, 400)}
PEERS = Path(__file__).parent / "peers"

PIECE_OF_TEXT = " one two three four five six seven eight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--base", type=Path, default=cache / "milepost/bases/smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    card = Base.model_validate_json((given.base / "base.json").read_bytes())
    base = Source(name=card.name, path=str(given.base), hash=card.hash)
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        sources = [write_adapter(base, Path(folder) / str(seed), seed) for seed in range(ADAPTERS)]
        report = compare(base, sources, given.tokens, given.rounds, choose_dtype())
        report["llama.cpp"] = llama(given.threads, given.tokens)
        report["first_token_ms"] = asyncio.run(first_tokens(base, Path(folder), given.threads))
    report |= {"threads": given.threads, "load_before": load_before, "load_after": os.getloadavg(), "base": base.name}
    print(f"load {load_before[0]:.1f} → {os.getloadavg()[0]:.1f}")
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


def compare(base: Source, sources: Sequence[Source], tokens: int, rounds: int, dtype: torch.dtype) -> dict[str, object]:
    theirs = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype).eval()
    ours = Ours(base, dtype)
    cases: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {}
    for batch in BATCHES:
        cases[f"decode, B = {batch}"] = (
            lambda batch=batch: ours.decode([None] * batch, tokens),
            lambda batch=batch: transformers_decode(theirs, batch, tokens),
        )
    mixed = [sources[i % ADAPTERS] for i in range(16)]
    cases[f"decode, B = 16, {ADAPTERS} adapters (theirs: base)"] = (
        lambda: ours.decode(mixed, tokens),
        lambda: transformers_decode(theirs, 16, tokens),
    )
    mixed_peft = MixedPeft(sources, base, dtype)
    cases[f"decode, B = 16, {ADAPTERS} adapters (theirs: PEFT's adapter_names)"] = (
        lambda: ours.decode(mixed, tokens),
        lambda: mixed_peft.decode(tokens),
    )
    cases["prompts and answers, B = 16 (theirs: continuous batching)"] = (
        lambda: ours.whole(16, tokens),
        lambda: continuous_batching(theirs, 16, tokens),
    )
    cases[f"prefill {LONG_PROMPT}"] = (ours.prefill, lambda: transformers_prefill(theirs))
    report: dict[str, object] = {"dtype": str(dtype), "tokens": tokens, "rounds": rounds}
    for name, sides in cases.items():
        ran = [[side() for side in sides] for _ in range(rounds)]  # in turns: both see the same neighbours
        mine, others = (max(column) for column in zip(*ran, strict=True))
        report[name] = {"milepost": round(mine, 1), "transformers": round(others, 1), "ratio": round(mine / others, 2)}
        print(f"{name:64} {mine:8.1f} | {others:8.1f} tokens/s   {mine / others:5.2f} times{judged(report, name)}")
    theirs.destroy_cached_continuous_batching_manager()
    report["bound"] = bound(theirs, report)
    return report


def judged(report: Mapping[str, Any], name: str) -> str:
    """The floor of a ratio and whether it is met, also noted in the report."""
    if name not in FLOORS:
        return ""
    floor, aim = FLOORS[name]
    report[name] |= {"floor": floor, "aim": aim, "is_met": report[name]["ratio"] >= floor}
    return f", {'ok' if report[name]['is_met'] else 'BELOW'} (floor {floor}, aim {aim})"


def llama(threads: int, tokens: int) -> dict[str, float] | None:
    """What llama.cpp gives of the same base in bf16, in a process of its own; None if it is not built."""
    python, model = PEERS / ".llama/bin/python", PEERS / ".llama/smollm2-bf16.gguf"
    if not python.exists() or not model.exists():
        print("llama.cpp is not built: `make bench-peers`")
        return None
    command = [python, PEERS / "llama.py", model, str(threads), str(tokens), "1"]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(told.stdout)
    print("llama.cpp, bf16: " + ", ".join(f"{name} {speed}" for name, speed in found.items()) + " tokens/s")
    return found


def bound(model: torch.nn.Module, report: Mapping[str, Any]) -> dict[str, float]:
    """Tokens per second of one sequence if nothing but reading the weights took time, and our share of that."""
    # a tied embedding is read once, as the head; the lookup reads a row
    size = sum(weight.nbytes for weight in {id(each): each for each in model.parameters()}.values())
    block = torch.ones(64 * 2**20)  # 256 MB: no cache holds it
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        seconds.append(time.perf_counter() - started)
    bandwidth = block.nbytes / min(seconds)
    most = bandwidth / size
    share = report["decode, B = 1"]["milepost"] / most
    print(
        f"{'bound by bandwidth, B = 1':64} {most:8.1f} tokens/s at {bandwidth / 1e9:.1f} GB/s; ours: {share:.0%} of it"
    )
    return {"tokens_per_s": round(most, 1), "gb_per_s": round(bandwidth / 1e9, 1), "ours": round(share, 2)}


class Ours:
    """The engine's core without its process; answers never end before their time."""

    def __init__(self, base: Source, dtype: torch.dtype) -> None:
        model = load_base(Path(base.path), dtype)
        compiled = kernels.load(Path(base.path).parent.parent / KERNELS)
        slots = Adapters(model, base_hash=base.hash, slots=ADAPTERS, kernels=compiled)
        self._base = base
        self._chat = replace(load_chat(Path(base.path)), end_ids=frozenset())
        self._core = Core(self._chat, Scheduler(slots, rows=16), Runner(model, slots, rows=16, kernels=compiled))

    def decode(self, sources: Sequence[Source | None], tokens: int) -> float:
        """Tokens per second once every prompt is computed."""
        for number, source in enumerate(sources):
            request = Generation(
                base=self._base, adapter=source, prompt=self._prompt(PROMPT), temperature=0, max_tokens=tokens + 20
            )
            self._core.take(Generate(id=number, generation=request))
        for _ in sources:
            self._core.step()
        started = time.perf_counter()
        for _ in range(tokens):
            self._core.step()
        seconds = time.perf_counter() - started
        while not self._core.is_idle:
            self._core.step()
        return len(sources) * tokens / seconds

    def whole(self, batch: int, tokens: int) -> float:
        """New tokens per second, prompts included."""
        for number in range(batch):
            request = Generation(base=self._base, prompt=self._prompt(PROMPT), temperature=0, max_tokens=tokens)
            self._core.take(Generate(id=number, generation=request))
        started = time.perf_counter()
        while not self._core.is_idle:
            self._core.step()
        return batch * tokens / (time.perf_counter() - started)

    def prefill(self) -> float:
        request = Generation(base=self._base, prompt=self._prompt(LONG_PROMPT), temperature=0, max_tokens=1)
        self._core.take(Generate(id=0, generation=request))
        started = time.perf_counter()
        while not self._core.is_idle:
            self._core.step()
        return LONG_PROMPT / (time.perf_counter() - started)

    def _prompt(self, length: int) -> str:
        return self._chat.decode(self._chat.encode_text(PIECE_OF_TEXT * length)[:length])


def transformers_decode(model: torch.nn.Module, batch: int, tokens: int) -> float:
    """The time of `tokens` more new tokens: prompts and start-up are taken off."""
    prompt = some_tokens(model, PROMPT).expand(batch, -1)
    return batch * tokens / (generate_seconds(model, prompt, tokens + 1) - generate_seconds(model, prompt, 1))


class MixedPeft:
    """A batch in which each row has its own adapter, as PEFT does it."""

    def __init__(self, sources: Sequence[Source], base: Source, dtype: torch.dtype) -> None:
        fresh = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype)
        self._model = PeftModel.from_pretrained(fresh, sources[0].path, adapter_name="0").eval()
        for number, source in enumerate(sources[1:], start=1):
            self._model.load_adapter(source.path, adapter_name=str(number))
        self._names = [str(row % len(sources)) for row in range(16)]

    def decode(self, tokens: int) -> float:
        prompt = some_tokens(self._model, PROMPT).expand(16, -1)
        names = {"adapter_names": self._names}
        longer = generate_seconds(self._model, prompt, tokens + 1, **names)
        return 16 * tokens / (longer - generate_seconds(self._model, prompt, 1, **names))


def continuous_batching(model: torch.nn.Module, batch: int, tokens: int) -> float:
    """New tokens per second, prompts included. Its cache and threads are kept from round to round, as a server would:
    the best of the rounds has none of the time it takes to make them.
    """
    prompts = [some_tokens(model, PROMPT).tolist()] * batch
    config = GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=0)
    started = time.perf_counter()
    found = model.generate_batch(prompts, generation_config=config, warmup=False, persistent_manager=True)
    seconds = time.perf_counter() - started
    return sum(len(output.generated_tokens) for output in found.values()) / seconds


def transformers_prefill(model: torch.nn.Module) -> float:
    return LONG_PROMPT / generate_seconds(model, some_tokens(model, LONG_PROMPT)[None], 1)


def some_tokens(model: torch.nn.Module, count: int) -> torch.Tensor:
    return (torch.arange(count) + 1000) % model.config.vocab_size


def generate_seconds(model: torch.nn.Module, prompt: torch.Tensor, tokens: int, **named: Any) -> float:
    started = time.perf_counter()
    model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=0,
        **named,
    )
    return time.perf_counter() - started


def write_adapter(base: Source, folder: Path, seed: int, *, rank: int = 16) -> Source:
    """On all linear layers, as a job makes it."""
    folder.mkdir()
    config = AdapterConfig(rank=rank, alpha=2.0 * rank, base_hash=base.hash)
    generator = torch.Generator().manual_seed(seed)
    shapes = adapters.shapes(load_config(Path(base.path)), config.rank)
    tensors = {name: torch.randn(shape, generator=generator) * 0.01 for name, shape in shapes}
    content = adapters.adapter_bytes(tensors, config)
    (folder / ADAPTER_WEIGHTS).write_bytes(content)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(adapters.peft_config(config, base.path)))
    return Source(name=folder.name, path=str(folder), hash=hashlib.sha256(content).hexdigest())


async def first_tokens(base: Source, folder: Path, threads: int, times: int = 21) -> dict[str, object]:
    sources = [write_adapter(base, folder / f"new-{seed}", 100 + seed) for seed in range(times)]
    os.sync()  # a checkpoint's files are on the disk before it is published
    waits = []
    async with Engines(launcher(threads=threads, log_file=folder / "engine.log", environment=os.environ)) as engines:
        await engines.warm(base, sources[0])
        for source in sources:
            request = Generation(base=base, adapter=source, prompt="one two three", temperature=0, max_tokens=8)
            started = time.perf_counter()
            async with aclosing(engines.generate(request)) as answers:
                await anext(answers)
            waits.append(1000 * (time.perf_counter() - started))
    found = {"p50": statistics.median(waits[1:]), "p95": statistics.quantiles(waits[1:], n=20)[-1]}
    report: dict[str, object] = {}
    for name, (floor, aim) in FIRST_TOKEN_MS.items():
        report[name] = {"ms": round(found[name], 1), "floor": floor, "aim": aim, "is_met": found[name] < floor}
        word = "ok" if found[name] < floor else "ABOVE"
        print(f"adapter there → first token, {name:36} {found[name]:8.1f} ms, {word} (at most {floor}, aim {aim})")
    return report


if __name__ == "__main__":
    main()
