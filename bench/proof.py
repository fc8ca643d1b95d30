"""Every checkpoint of a data folder answers as transformers and peft compute it in fp32, asked through its server.

    python bench/proof.py DATA_FOLDER [--question TEXT] [--tokens 32]

Starts `milepost serve` on the folder, asks each checkpoint of its newest succeeded job greedily, and recomputes each
answer offline: for each token served, how many nats the fp32 recomputation would have lost by choosing it instead of
its own likeliest. 0 everywhere means the same tokens; a near-tie shows as a small number.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from openai import OpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM

from milepost import config
from milepost.modeling.template import Chat, load_chat
from milepost.store import bases

SYSTEM = "Answer with one SQL query."


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--question", default="Some of our fine-tuning runs did not make it. Which, and why?")
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": arguments.question}]
    answers, base = served(arguments.data, messages, arguments.tokens)
    _, folder = bases.get(config.load(os.environ), base)
    chat = load_chat(folder)
    for name, (text, fingerprint) in answers.items():
        adapter = next(iter(arguments.data.glob(f"adapters/{fingerprint.removeprefix('fp_')}*")), None)
        lost = nats_lost(folder, adapter, chat, messages, text)
        print(f"{name}\n  {fingerprint}  {text!r}\n  tokens {len(lost)}, most nats lost at one {max(lost):.4f}")
    print(f"{len({text for text, _ in answers.values()})} different answers of {len(answers)}")


def served(data: Path, messages: list[dict[str, str]], tokens: int) -> tuple[dict[str, tuple[str, str]], str]:
    """Model → (greedy answer, fingerprint), for the base and each checkpoint of the newest succeeded job."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "milepost", "serve", "--port", "0", "--data", str(data)]
        server = subprocess.Popen(command, env=os.environ | {"MILEPOST_CONFIG_DIR": folder})
        try:
            local = Path(folder) / "local.json"
            while not local.exists() and server.poll() is None:
                time.sleep(0.05)
            told = json.loads(local.read_bytes())
            client = OpenAI(base_url=told["url"], api_key=told["key"])
            job = next(job for job in client.fine_tuning.jobs.list() if job.status == "succeeded")
            names = [c.fine_tuned_model_checkpoint for c in client.fine_tuning.jobs.checkpoints.list(job.id)]
            found = {}
            for name in (job.model, *reversed(names)):
                answer = client.chat.completions.create(model=name, messages=messages, max_tokens=tokens, temperature=0)
                found[name] = answer.choices[0].message.content, answer.system_fingerprint
            return found, job.model
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def nats_lost(base: Path, adapter: Path | None, chat: Chat, messages: list[dict[str, str]], text: str) -> list[float]:
    prompt, answer = chat.encode(messages, add_generation_prompt=True), chat.encode_text(text)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.inference_mode():
        logs = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return (logs.max(-1).values - logs.gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)).tolist()


if __name__ == "__main__":
    main()
