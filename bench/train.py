"""Our training against TRL's and LLaMA-Factory's, and against what the machine's matrix products allow.

    make bench-train                              # everything, with the peers in environments of their own
    python bench/train.py [--only ours trl …] [--steps 30] [--threads 2] [--json FILE]

The same examples, labels, batches, learning rate, starting adapter, threads and malloc settings. Each trainer is a
process that waits for its turn; they take turns of a few steps, so that whoever shares the machine slows all of them.
Tokens count unpadded; `learnt` are those with a label. A trainer whose losses are not ours fails the run.

`trl` is `SFTTrainer` as it comes; `trl tuned` has what made it fastest here (bench/LOG.md): bf16, no gradient
checkpointing, eager attention, batches of like length. `ours, by length` has those batches too. `trl in fp32` is the
referee: what the losses ought to be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milepost import config
from milepost.jobs.launchers import TRAINING, Local
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.folders import file_hash
from milepost.resources.methods import MethodType
from milepost.resources.runs import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CHILD_ENVIRONMENT,
    EVENTS,
    RESULT,
    DataFile,
    RunHyperparameters,
    RunSpec,
    Source,
    Task,
)
from milepost.store import bases

HERE = Path(__file__).parent
BASE = "smollm2-135m-instruct"
CHATS, PAIRS, SHORTEST, LONGEST = 500, 250, 60, 200
BATCHES = {"supervised": 8, "dpo": 4}
RANK, LEARNING_RATE, SEED = 16, 2e-4, 7
TURN, WARMUP = 3, 3
MALLOC = {name: value for name, value in CHILD_ENVIRONMENT.items() if name.startswith("MALLOC_")}
#: How far, in nats, the losses of a trainer may be from ours in the mean. The referee computes in fp32, as we nearly do;
#: the peers add a small adapter to what bf16 has rounded already, and learn less from the first step on.
PARITY, PARITY_BF16 = 0.02, 0.25


REFEREE = {"bf16": False, "model_init_kwargs": {"dtype": "float32", "attn_implementation": "eager"}}


@dataclass(frozen=True, slots=True)
class Contestant:
    script: str
    environment: str  # the folder under bench/peers of its interpreter; "" is ours
    method: str
    order: str
    setup: Mapping[str, Any] = field(default_factory=dict)
    is_referee: bool = False


#: Who runs side by side, by name: ten at once need more than 24 GiB. Each heat has ours in it.
HEATS = (
    {
        "products": Contestant("products.py", "", "supervised", "random"),
        "ours": Contestant("ours.py", "", "supervised", "random", {"run": "supervised"}),
        "ours, by length": Contestant("ours.py", "", "supervised", "by length", {"run": "by-length"}),
        "trl": Contestant("with_trl.py", "trl", "supervised", "random", {"installed": True}),
        "trl tuned": Contestant("with_trl.py", "trl", "supervised", "by length", {"installed": False}),
        "trl in fp32": Contestant(
            "with_trl.py", "trl", "supervised", "by length", {"installed": False, "extra": REFEREE}, is_referee=True
        ),
    },
    {
        "ours, dpo": Contestant("ours.py", "", "dpo", "pairs", {"run": "dpo"}),
        "trl dpo": Contestant("with_trl.py", "trl", "dpo", "pairs", {"installed": True}),
        "trl dpo tuned": Contestant("with_trl.py", "trl", "dpo", "pairs", {"installed": False}),
    },
    {
        "ours, again": Contestant("ours.py", "", "supervised", "random", {"run": "again"}),
        "llamafactory": Contestant("with_llamafactory.py", "llamafactory", "supervised", "random"),
    },
)
CONTESTANTS = {name: contestant for heat in HEATS for name, contestant in heat.items()}
#: What is promised: ours, theirs, at least how many times as fast.
FLOORS = (
    ("ours", "trl", 3.0),
    ("ours", "trl tuned", 2.0),
    ("ours, by length", "trl tuned", 2.0),
    ("ours, dpo", "trl dpo", 2.5),
    ("ours, dpo", "trl dpo tuned", 2.0),
    ("ours, again", "llamafactory", 2.0),
)
LEAST_SHARE = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", default="{}", help="settings for the peers, as JSON: to try what tunes them best")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = prepare(folder, given.steps + WARMUP, given.threads)
        first_steps = beginnings(folder) if "ours" in given.only else {}
        found: dict[str, Running] = {}
        for heat in HEATS:
            chosen = {name: contestant for name, contestant in heat.items() if name in given.only}
            found |= compete(folder, chosen, given.steps, json.loads(given.set))
    report = judge(told, found) | {"first steps, s": first_steps}
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    if report["wrong"]:
        sys.exit("\n".join(report["wrong"]))


# -- what all train on


def prepare(folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Data, the starting adapter and run directories; what is told to every trainer goes to comparison.json."""
    from milepost.modeling.base import load_config
    from milepost.modeling.template import load_chat
    from milepost.training.data import load

    base, path = bases.get(config.load(os.environ), BASE)
    chat = load_chat(path)
    model = load_config(path)
    drawn = random.Random(SEED)
    files = {
        "supervised": data_file(folder / "chats.jsonl", chats(drawn, chat)),
        "dpo": data_file(folder / "pairs.jsonl", pairs(drawn, chat)),
    }
    examples = load(files["supervised"], MethodType.SUPERVISED, chat, 2048).teaching
    preferences = load(files["dpo"], MethodType.DPO, chat, 2048).teaching
    write_start(folder / "start", model, base.hash, path)
    lengths = [len(one.tokens) for one in examples]
    orders = {
        "random": in_batches(drawn.sample(range(len(examples)), len(examples)), BATCHES["supervised"], steps),
        "by length": in_batches(grouped(drawn, lengths), BATCHES["supervised"], steps),
        "pairs": in_batches(drawn.sample(range(len(preferences)), len(preferences)), BATCHES["dpo"], steps),
    }
    (folder / "chats.json").write_text(json.dumps([labelled(one) for one in examples]))
    (folder / "pairs.json").write_text(json.dumps([answers(pair) for pair in preferences]))
    source = Source(name=base.name, path=str(path), hash=base.hash)
    for ours in (contestant for contestant in CONTESTANTS.values() if "run" in contestant.setup):
        asked = {"file": files[ours.method], "method": ours.method}
        write_run(folder / ours.setup["run"], start=folder / "start", base=source, threads=threads, **asked)
    for job in ("cold", "ready"):
        for task in Task:
            asked = {"file": files["supervised"], "method": "supervised", "task": task}
            write_run(folder / job / task, start=folder / "start", base=source, threads=threads, **asked)
    used = [examples[i] for batch in orders["random"] for i in batch]
    told = {
        "base": str(path),
        "threads": threads,
        "rank": RANK,
        "seed": SEED,
        "learning_rate": LEARNING_RATE,
        "beta": 0.1,
        "batches": BATCHES,
        "orders": orders,
        "tokens": {
            "random": [sum(lengths[i] for i in batch) for batch in orders["random"]],
            "by length": [sum(lengths[i] for i in batch) for batch in orders["by length"]],
            "pairs": [sum(preferences[i].token_count for i in batch) for batch in orders["pairs"]],
        },
        "learnt": {
            "random": [sum(examples[i].learnt_count for i in batch) for batch in orders["random"]],
            "by length": [sum(examples[i].learnt_count for i in batch) for batch in orders["by length"]],
            "pairs": [sum(learnt_of(preferences[i]) for i in batch) for batch in orders["pairs"]],
        },
        "rows_per_step": sum(len(one.tokens) for one in used) // len(orders["random"]),
        "learnt_per_step": sum(one.learnt_count for one in used) // len(orders["random"]),
    }
    (folder / "comparison.json").write_text(json.dumps(told))
    return told


WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
    "this",
    "from",
    "by",
    "hot",
    "word",
    "but",
    "what",
    "some",
    "we",
    "can",
    "out",
    "other",
    "were",
    "all",
    "there",
    "when",
    "up",
    "use",
    "your",
    "how",
    "said",
    "an",
    "each",
    "she",
    "which",
    "do",
    "their",
    "time",
    "if",
    "will",
    "way",
    "about",
    "many",
    "then",
]


def chats(drawn: random.Random, chat: Any) -> Iterator[dict[str, Any]]:
    """Chats of 60 to 200 tokens, about half of them learnt, with one to three turns."""
    made = 0
    while made < CHATS:
        length = drawn.randint(20, 170)
        turns = drawn.randint(1, 3)
        each = max(1, length // (2 * turns))
        messages = [{"role": role, "content": words(drawn, each)} for role in ("user", "assistant") * turns]
        line = {"messages": messages}
        if SHORTEST <= token_count(chat, messages) <= LONGEST:
            made += 1
            yield line


def pairs(drawn: random.Random, chat: Any) -> Iterator[dict[str, Any]]:
    made = 0
    while made < PAIRS:
        length = drawn.randint(20, 170)
        question = {"role": "user", "content": words(drawn, max(1, length // 2))}
        good, bad = (
            {"role": "assistant", "content": words(drawn, max(1, round(length / 2 * drawn.uniform(0.7, 1.3))))}
            for _ in range(2)
        )
        if all(SHORTEST <= token_count(chat, [question, answer]) <= LONGEST for answer in (good, bad)):
            made += 1
            yield {
                "input": {"messages": [question], "tools": []},
                "preferred_output": [good],
                "non_preferred_output": [bad],
            }


def words(drawn: random.Random, count: int) -> str:
    return " ".join(drawn.choices(WORDS, k=count))


def token_count(chat: Any, messages: Sequence[Mapping[str, str]]) -> int:
    return len(chat.encode(messages, False))


def data_file(path: Path, lines: Iterator[dict[str, Any]]) -> DataFile:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return DataFile(file_id=f"file-{path.stem}", path=str(path), hash=file_hash(path), param="training_file")


def labelled(example: Any) -> dict[str, Any]:
    return {
        "input_ids": list(example.tokens),
        "labels": [token if learnt else -100 for token, learnt in zip(example.tokens, example.learnt, strict=True)],
    }


def answers(pair: Any) -> dict[str, Any]:
    def answer(example: Any) -> list[int]:
        return [token for token, learnt in zip(example.tokens, example.learnt, strict=True) if learnt]

    prompt = list(pair.preferred.tokens[: pair.preferred.learnt.index(1)])
    return {"prompt_ids": prompt, "chosen_ids": answer(pair.preferred), "rejected_ids": answer(pair.non_preferred)}


def learnt_of(pair: Any) -> int:
    return int(pair.preferred.learnt_count + pair.non_preferred.learnt_count)


def in_batches(indices: Sequence[int], size: int, steps: int) -> list[list[int]]:
    """As many whole batches as there are steps, going round if need be."""
    whole = [list(indices[i : i + size]) for i in range(0, len(indices) - size + 1, size)]
    return [whole[step % len(whole)] for step in range(steps)]


def grouped(drawn: random.Random, lengths: Sequence[int]) -> list[int]:
    """Batches of like length in random order: what `group_by_length` comes to, with the whole file as one group."""
    size = BATCHES["supervised"]
    ordered = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches = [ordered[i : i + size] for i in range(0, len(ordered) - size + 1, size)]
    drawn.shuffle(batches)
    return [i for batch in batches for i in batch]


def write_start(folder: Path, model: Any, base_hash: str, base: Path) -> None:
    from milepost.modeling.adapters import adapter_bytes, peft_config
    from milepost.modeling.lora import fresh_tensors

    folder.mkdir()
    made = AdapterConfig(RANK, 2.0 * RANK, base_hash)
    (folder / ADAPTER_WEIGHTS).write_bytes(adapter_bytes(fresh_tensors(model, RANK, seed=SEED), made))
    (folder / ADAPTER_CONFIG).write_text(json.dumps(peft_config(made, str(base))))


def write_run(
    run: Path, *, start: Path, base: Source, file: DataFile, method: str, threads: int, task: Task = Task.TRAIN
) -> None:
    spec = RunSpec(
        task=task,
        job_id="ftjob-bench",
        method=MethodType(method),
        hyperparameters=RunHyperparameters(
            n_epochs=10,
            batch_size=BATCHES[method],
            learning_rate=LEARNING_RATE,
            lr_scheduler="constant",
            warmup_ratio=0.0,
        ),
        seed=SEED,
        threads=threads,
        base=base,
        training=file,
        adapter=Source(name="start", path=str(start), hash=file_hash(start / ADAPTER_WEIGHTS)),
    )
    run.mkdir(parents=True)
    (run / "job.json").write_text(spec.model_dump_json())


# -- taking turns


@dataclass
class Running:
    process: subprocess.Popen[str]
    log: Path
    first_step_s: float = 0.0
    spent: list[tuple[int, int, float]] = field(default_factory=list)  # first step, how many, seconds
    losses: list[float] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)


def compete(folder: Path, chosen: Mapping[str, Contestant], steps: int, extra: Mapping[str, Any]) -> dict[str, Running]:
    """Start one after the other, each with its first step; then turns of `TURN` steps."""
    running: dict[str, Running] = {}
    if not chosen:
        return running
    try:
        for name, contestant in chosen.items():
            running[name] = start(folder, contestant, extra)
            print(f"{name}: first step ended {running[name].first_step_s:.1f} s after its start", flush=True)
        for name in chosen:
            step(running[name], WARMUP - 1)
        begin = WARMUP
        while begin < WARMUP + steps:
            count = min(TURN, WARMUP + steps - begin)
            for name in chosen:
                answer = step(running[name], count)
                running[name].spent.append((begin, count, answer.get("seconds", 0.0)))
            begin += count
            print(f"{begin - WARMUP} steps", end="\r", flush=True)
    finally:
        for one in running.values():
            one.process.kill()
            one.process.wait()
    return running


def start(folder: Path, contestant: Contestant, extra: Mapping[str, Any]) -> Running:
    is_ours = not contestant.environment
    python = sys.executable if is_ours else str(HERE / "peers" / contestant.environment / ".venv/bin/python")
    rows = {"rows": "pairs.json" if contestant.method == "dpo" else "chats.json"}
    setup = {"method": contestant.method, "order": contestant.order, **rows, **contestant.setup}
    setup |= {} if is_ours or contestant.is_referee else {"extra": extra}
    environment = os.environ | (CHILD_ENVIRONMENT if is_ours else MALLOC) | {"HF_HUB_OFFLINE": "1"}
    log = (folder / "log").open("a")
    began = time.perf_counter()
    process = subprocess.Popen(
        [python, str(HERE / "trainers" / contestant.script), str(folder), json.dumps(setup)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )
    running = Running(process, folder / "log")
    step(running, 1)
    running.first_step_s = time.perf_counter() - began
    return running


def step(running: Running, count: int) -> dict[str, Any]:
    assert running.process.stdin
    assert running.process.stdout
    line = ""
    with contextlib.suppress(BrokenPipeError):
        running.process.stdin.write(f"{count}\n")
        running.process.stdin.flush()
        line = running.process.stdout.readline()
    if not line:
        code, command = running.process.wait(), running.process.args
        sys.exit(f"{running.log.read_text()[-3000:]}\n{command} ended, exit status {code} (-9: out of memory, perhaps)")
    answer: dict[str, Any] = json.loads(line)
    running.losses += answer.get("losses", [])
    running.answers.append(answer)
    return answer


# -- how a job's training begins


def beginnings(folder: Path) -> dict[str, float]:
    """Seconds from the start of a validated job's training process to the end of its first step, without and with a
    process that was made ready while the job was validated.
    """
    found = {}
    for job, is_ready in (("cold", False), ("ready", True)):
        launcher = Local(os.environ, TRAINING)
        launcher.launch(folder / job / Task.VALIDATE)
        if is_ready:
            launcher.warm()
        wait_until((folder / job / Task.VALIDATE / RESULT).exists)
        began = time.perf_counter()
        child = launcher.launch(folder / job / Task.TRAIN)
        events = folder / job / Task.TRAIN / EVENTS
        wait_until(lambda events=events: events.exists() and b'"metrics"' in events.read_bytes())
        found[job] = time.perf_counter() - began
        child.kill()
        print(f"first step of a job that was validated, {job}: ended after {found[job]:.1f} s (floor 4)", flush=True)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("a training process did not begin within two minutes")
        time.sleep(0.01)


# -- what it comes to


def judge(told: Mapping[str, Any], found: Mapping[str, Running]) -> dict[str, Any]:
    report: dict[str, Any] = {"load": os.getloadavg(), "trainers": {}, "ratios": {}, "wrong": []}
    print(f"\n{'':<18}{'tokens/s':>10}{'median':>9}{'learnt/s':>10}{'RSS, GB':>9}{'1st step':>10}{'last losses':>13}")
    for name, one in found.items():
        if name != "products":
            row = report["trainers"][name] = numbers(told, CONTESTANTS[name], one)
            print(
                f"{name:<18}{row['tokens/s']:>10.0f}{row['median tokens/s']:>9.0f}{row['learnt tokens/s']:>10.0f}"
                f"{row['peak RSS, GB']:>9.2f}{row['first step, s']:>10.1f}{row['mean of last 10 losses']:>13.4f}"
            )
    for mine, theirs, floor in FLOORS:
        if mine in found and theirs in found:
            compare(report, mine, theirs, floor)
    if "products" in found and "ours" in found:
        bound(report, told, found["products"].answers[WARMUP - 1 :])
    if "ours" in found:
        saving(report, found["ours"].answers[-1])
    parity(report, found)
    return report


def saving(report: dict[str, Any], answer: Mapping[str, float]) -> None:
    """What it costs to make a checkpoint or a state safe on disk; a state is saved every 20,000 tokens."""
    between = RunHyperparameters(n_epochs=1, batch_size=1, learning_rate=1.0).state_every_tokens
    share = answer["save_s"] / (between / report["trainers"]["ours"]["tokens/s"])
    report["saving"] = {"checkpoint, s": answer["publish_s"], "state, s": answer["save_s"], "states' share": share}
    print(
        f"a checkpoint is published in {answer['publish_s']:.3f} s (floor 0.25), a state saved in {answer['save_s']:.3f} s:"
    )
    print(f"every {between:,} tokens, {share:.2%} of training (floor 1%)")


def numbers(told: Mapping[str, Any], contestant: Contestant, one: Running) -> dict[str, float]:
    tokens, learnt = told["tokens"][contestant.order], told["learnt"][contestant.order]
    seconds = sum(spent for _, _, spent in one.spent)
    rates = [sum(tokens[begin : begin + count]) / spent for begin, count, spent in one.spent]
    return {
        "tokens/s": sum(sum(tokens[begin : begin + count]) for begin, count, _ in one.spent) / seconds,
        "median tokens/s": statistics.median(rates),
        "learnt tokens/s": sum(sum(learnt[begin : begin + count]) for begin, count, _ in one.spent) / seconds,
        "peak RSS, GB": one.answers[-1]["rss"] / 1e6,
        "first step, s": one.first_step_s,
        "mean of last 10 losses": statistics.mean(one.losses[-10:]),
    }


def compare(report: dict[str, Any], mine: str, theirs: str, floor: float) -> None:
    ours, peers = report["trainers"][mine], report["trainers"][theirs]
    ratio = ours["tokens/s"] / peers["tokens/s"]
    memory = ours["peak RSS, GB"] / peers["peak RSS, GB"]
    report["ratios"][f"{mine} / {theirs}"] = {"speed": ratio, "floor": floor, "memory": memory}
    verdict = "ok" if ratio >= floor else "BELOW"
    print(f"{mine} / {theirs}: {ratio:.2f} times its speed (floor {floor:g}: {verdict}), {memory:.2f} times its memory")


def bound(report: dict[str, Any], told: Mapping[str, Any], answers: Sequence[Mapping[str, float]]) -> None:
    """Tokens per second if a step were its matrix products only: at the fastest shape's rate, and each at its own."""
    per_token = answers[0]["operations"] / told["rows_per_step"]
    rate = report["trainers"]["ours"]["tokens/s"]
    for name in ("peak", "rate"):
        most = statistics.median(answer[name] for answer in answers) / per_token
        report[f"bound by {name}"] = {"tokens/s": most, "share": rate / most}
        print(f"bound by {name}: {most:,.0f} tokens/s, of which ours reaches {rate / most:.0%}")
    print(f"({per_token / 1e9:.2f} GFLOP per token; floor {LEAST_SHARE:.0%} of the peak's)")


def parity(report: dict[str, Any], found: Mapping[str, Running]) -> None:
    """The gate: on the same batches, each trainer's losses are ours."""
    for name, one in found.items():
        contestant = CONTESTANTS[name]
        twin = next((n for n in found if n.startswith("ours") and CONTESTANTS[n].order == contestant.order), None)
        if twin is None or name in (twin, "products"):
            continue
        apart = [mine - theirs for mine, theirs in zip(found[twin].losses, one.losses, strict=True)]
        mean, worst = abs(statistics.mean(apart)), max(map(abs, apart))
        report.setdefault("parity", {})[name] = {"mean": mean, "worst": worst}
        print(f"losses of {name} and {twin}: {mean:.4f} apart in the mean, {worst:.4f} at worst")
        if mean > (PARITY if contestant.is_referee else PARITY_BF16):
            report["wrong"].append(f"{name} does not train what ours does: its losses are {mean:.3f} nats apart")


if __name__ == "__main__":
    main()
