"""llama.cpp, several sequences in each `llama_decode`, as its server does it: tokens per second as one line of JSON.

    python bench/peers/llama.py MODEL.gguf THREADS TOKENS ROUNDS

Run in an environment of its own (`requirements-llama.txt`). Adapters hang on the context, not on a sequence
(`llama_set_adapters_lora`): all sequences of a decode have the same.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial

import llama_cpp

PROMPT, LONG_PROMPT, BATCHES = 64, 512, (1, 4, 16)


def main(path: str, threads: int, tokens: int, rounds: int) -> None:
    llama_cpp.llama_backend_init()
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    found = {f"decode, B = {batch}": best(rounds, partial(decode, model, threads, batch, tokens)) for batch in BATCHES}
    found[f"prefill {LONG_PROMPT}"] = best(rounds, partial(prefill, model, threads))
    print(json.dumps(found))


def best(rounds, measure):  # noqa: ANN001, ANN201
    return round(max(measure() for _ in range(rounds)), 1)


def context(model, threads, sequences):  # noqa: ANN001, ANN201
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = sequences * 1024, 2048, 512
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = threads
    return llama_cpp.llama_init_from_model(model, params)


def decode(model, threads, sequences, tokens):  # noqa: ANN001, ANN201
    """Tokens per second of all sequences once every prompt is computed."""
    ctx, batch = context(model, threads, sequences), llama_cpp.llama_batch_init(2048, 0, 1)
    for sequence in range(sequences):
        run(ctx, batch, [(1000 + at, at, sequence, at == PROMPT - 1) for at in range(PROMPT)])
    began = time.perf_counter()
    for at in range(PROMPT, PROMPT + tokens):
        run(ctx, batch, [(1000 + at, at, sequence, True) for sequence in range(sequences)])
    seconds = time.perf_counter() - began
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(ctx)
    return sequences * tokens / seconds


def prefill(model, threads):  # noqa: ANN001, ANN201
    ctx, batch = context(model, threads, 1), llama_cpp.llama_batch_init(2048, 0, 1)
    began = time.perf_counter()
    run(ctx, batch, [(1000 + at, at, 0, at == LONG_PROMPT - 1) for at in range(LONG_PROMPT)])
    seconds = time.perf_counter() - began
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(ctx)
    return LONG_PROMPT / seconds


def run(ctx, batch, rows):  # noqa: ANN001, ANN201
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, is_last) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, is_last
        batch.seq_id[i][0] = sequence
    if code := llama_cpp.llama_decode(ctx, batch):
        raise SystemExit(f"llama_decode: {code}")
    llama_cpp.llama_synchronize(ctx)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
