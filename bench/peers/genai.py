"""openvino-genai's continuous batching, adapters by request: tokens per second as one line of JSON.

python bench/peers/genai.py MODEL.gguf-or-folder TOKENS [ADAPTER.safetensors …]
"""

from __future__ import annotations

import json
import sys
import time

import openvino_genai as genai

PROMPT = " one two three four five six seven eight" * 8


def speed(pipe, batch, tokens, adapters=()):  # noqa: ANN001, ANN201
    """The time of `tokens` more new tokens: prompts and start-up are taken off."""
    seconds = []
    for count in (1, tokens + 1):
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
        configs = []
        for row in range(batch):
            one = genai.GenerationConfig()
            one.max_new_tokens, one.ignore_eos, one.do_sample = count, True, False
            if adapters:
                one.adapters = genai.AdapterConfig(adapters[row % len(adapters)])
            configs.append(one)
        began = time.perf_counter()
        pipe.generate([PROMPT] * batch, configs)
        seconds.append(time.perf_counter() - began)
    return round(batch * tokens / (seconds[1] - seconds[0]), 1)


def main(path: str, tokens: int, files: list[str]) -> None:
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens, scheduler.cache_size = 512, 1
    options = {}
    adapters = [genai.Adapter(file) for file in files]
    if adapters:
        options["adapters"] = genai.AdapterConfig(adapters)
    began = time.perf_counter()
    pipe = genai.ContinuousBatchingPipeline(path, scheduler, "CPU", options)
    found = {"start_s": round(time.perf_counter() - began, 1)}
    for batch in (1, 16):
        found[f"decode, B = {batch}"] = max(speed(pipe, batch, tokens) for _ in range(2))
    print(json.dumps(found), flush=True)
    if adapters:
        found["mixed"] = speed(pipe, 16, tokens, adapters)
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
