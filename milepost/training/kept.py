"""What validation has tokenised, kept beside a job's run directories: training, and each restart of it, reads that.

A file is known by what its examples were made of, and says the sha256 of what it holds. One that is not there, or whose
bytes have changed, is not missed: the lines are tokenised again. No torch here: validation starts fast.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from milepost import __version__
from milepost.errors import Corrupt
from milepost.modeling import folders
from milepost.modeling.adapter_files import header_of
from milepost.resources.methods import MethodType
from milepost.resources.runs import EXAMPLES, DataFile, RunSpec
from milepost.training.data import Dataset, Example, Pair

log = logging.getLogger(__name__)

#: What makes tokens of lines, beside the base's own files.
_LIBRARIES = ("tokenizers", "jinja2")


def keep(run: Path, spec: RunSpec, dataset: Dataset) -> None:
    """Keep the examples of a file for the run that trains on them."""
    path = _path(run, spec, dataset.file)
    path.parent.mkdir(exist_ok=True)
    texts = [text for example in dataset.examples for text in _texts(example)]
    arrays: dict[str, NDArray[Any]] = {
        "numbers": np.fromiter((example.number for example in dataset.examples), dtype=np.int64),
        "lengths": np.fromiter((text.token_count for text in texts), dtype=np.int64),
        "is_cut": np.fromiter((text.is_cut for text in texts), dtype=np.uint8),
        "tokens": np.frombuffer(b"".join(text.tokens.tobytes() for text in texts), dtype=np.intc),
        "learnt": np.frombuffer(b"".join(text.learnt for text in texts), dtype=np.uint8),
    }
    folders.replace(path, safetensors.numpy.save(arrays, metadata={"sha256": _digest(arrays)}))


def find(run: Path, spec: RunSpec, file: DataFile) -> Dataset | None:
    """The examples of a file, if they were kept and are what was kept."""
    path = _path(run, spec, file)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        arrays = safetensors.numpy.load(content)
        is_whole = header_of(content)["__metadata__"]["sha256"] == _digest(arrays)
    except (SafetensorError, Corrupt, KeyError, ValueError):
        is_whole = False
    if not is_whole:
        log.warning("%s was damaged, and is not used: the lines are tokenised again", path)
        return None
    texts = _cut_up(arrays)
    if spec.method is MethodType.DPO:
        return Dataset(file, tuple(Pair(one.number, one, other) for one, other in zip(texts, texts, strict=True)))
    return Dataset(file, tuple(texts))


def _texts(example: Example | Pair) -> tuple[Example, ...]:
    return (example,) if isinstance(example, Example) else (example.preferred, example.non_preferred)


def _cut_up(arrays: Mapping[str, NDArray[Any]]) -> Iterator[Example]:
    """The texts one after the other; where lines are pairs, two of each."""
    lengths, numbers = arrays["lengths"], arrays["numbers"]
    each = len(lengths) // max(len(numbers), 1)
    tokens, learnt = arrays["tokens"].tobytes(), arrays["learnt"].tobytes()
    size, begin = np.intc().itemsize, 0
    for number, length, is_cut in zip(numbers.repeat(each).tolist(), lengths.tolist(), arrays["is_cut"], strict=True):
        end = begin + length
        yield Example(number, array("i", tokens[size * begin : size * end]), learnt[begin:end], is_cut=bool(is_cut))
        begin = end


def _path(run: Path, spec: RunSpec, file: DataFile) -> Path:
    made_of = {
        "file": file.hash,
        "base": spec.base.hash,
        "method": spec.method,
        "max_length": spec.hyperparameters.max_length,
        "milepost": __version__,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    name = hashlib.sha256(folders.canonical(made_of)).hexdigest()
    return run.parent / EXAMPLES / f"{name}.safetensors"


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of every array's name, kind and bytes."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype} {len(values)}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
