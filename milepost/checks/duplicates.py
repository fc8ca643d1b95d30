"""Which examples stand in a file twice, exactly or nearly, and which of a validation file are trained on.

Exact: 64 bits of a hash of the parsed line, keys sorted. Near: MinHash (Broder 1997) over the pieces of five bytes of
what users and assistants say, case and punctuation aside; candidates come from sixteen bands of eight hashes, and are
near duplicates if the share of equal hashes is `THRESHOLD` or more. Everything is seeded: the same file, the same
report. What the system says is left out: it is mostly the same in all examples.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from milepost.resources.messages import SYSTEM_ROLES, text_of
from milepost.resources.methods import LineShape
from milepost.resources.reports import LineGroup, LinePair

Hashes = npt.NDArray[np.uint64]
Signature = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]

#: Estimated similarity (Jaccard's, of the pieces) from which two examples are nearly the same. Its standard error with
#: 128 hashes is 0.03 there.
THRESHOLD = 0.85
HASHES, BANDS, PIECE = 128, 16, 5
#: What is looked at of one example: bytes of its text, and pieces of it, those of the smallest hashes.
MAX_TEXT, MAX_PIECES = 64 * 1024, 512
#: Groups and pairs that are told, and lines of a group.
MAX_TOLD, MAX_LINES = 20, 10

_SEED = 20_261_125
_CHUNK = 65_536  # pairs compared at a time


def fingerprint(line: Mapping[str, Any]) -> int:
    """64 bits that are the same for lines of the same content."""
    digest = hashlib.blake2b(orjson.dumps(line, option=orjson.OPT_SORT_KEYS), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def signature(line: Mapping[str, Any], shape: LineShape) -> Signature:
    """The smallest of each of 128 hashes of a text's pieces (128,): equal ones are as frequent as shared pieces."""
    text = " ".join(re.findall(r"\w+", _said(line, shape)[:MAX_TEXT].lower())).encode()[:MAX_TEXT].ljust(PIECE)
    letters = np.frombuffer(text, dtype=np.uint8).astype(np.uint64)
    count = len(letters) - PIECE + 1
    pieces = np.zeros(count, dtype=np.uint64)
    for place in range(PIECE):
        pieces = (pieces << np.uint64(8)) | letters[place : place + count]
    mixed = _mix(pieces)
    if len(mixed) > MAX_PIECES:
        mixed = np.partition(mixed, MAX_PIECES)[:MAX_PIECES]
    smallest = (mixed[:, None] * _MULTIPLIERS[None, :]).min(axis=0)
    found: Signature = (smallest >> np.uint64(32)).astype(np.uint32)
    return found


def exact_groups(prints: Hashes, numbers: Sequence[int]) -> tuple[int, tuple[LineGroup, ...], Indices]:
    """How many repeat an earlier one, the first groups, and the index of the first of each different one."""
    if not len(prints):
        return 0, (), np.zeros(0, dtype=np.int64)
    order = np.argsort(prints, kind="stable")
    ordered = prints[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    firsts, counts = order[begins], np.diff(np.r_[begins, len(order)])
    many = np.flatnonzero(counts > 1)
    told = many[np.argsort(firsts[many])][:MAX_TOLD]
    groups = tuple(
        LineGroup(
            lines=tuple(numbers[i] for i in order[begins[run] : begins[run] + min(int(counts[run]), MAX_LINES)]),
            count=int(counts[run]),
            similarity=1.0,
        )
        for run in told
    )
    return len(prints) - len(begins), groups, np.sort(firsts)


def near_groups(signatures: Signature, numbers: Sequence[int]) -> tuple[int, tuple[LineGroup, ...]]:
    """How many nearly repeat an earlier one, and the first groups. `signatures` is (examples, 128)."""
    left, right = _neighbours(signatures)
    likeness = _likeness(signatures, left, right)
    leaders = list(range(len(signatures)))

    def leader(index: int) -> int:
        while leaders[index] != index:
            leaders[index] = leaders[leaders[index]]
            index = leaders[index]
        return index

    close = np.flatnonzero(likeness >= THRESHOLD)
    for a, b in zip(left[close].tolist(), right[close].tolist(), strict=True):
        one, other = sorted((leader(a), leader(b)))
        leaders[other] = one
    members: dict[int, list[int]] = {}
    for index in range(len(leaders)):
        members.setdefault(leader(index), []).append(index)
    least: dict[int, float] = {}
    for a, value in zip(left[close].tolist(), likeness[close].tolist(), strict=True):
        least[leader(a)] = min(value, least.get(leader(a), 1.0))
    groups = [each for each in members.values() if len(each) > 1]
    told = tuple(
        LineGroup(
            lines=tuple(numbers[i] for i in group[:MAX_LINES]),
            count=len(group),
            similarity=round(least[group[0]], 2),
        )
        for group in groups[:MAX_TOLD]
    )
    return sum(len(group) - 1 for group in groups), told


def exact_overlap(prints: Hashes, others: Hashes) -> tuple[Indices, Indices]:
    """Indices into `prints`, and for each an index of the same in `others`."""
    order = np.argsort(others, kind="stable")
    places = np.minimum(np.searchsorted(others, prints, sorter=order), max(len(others) - 1, 0))
    if not len(others):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    found = np.flatnonzero(others[order[places]] == prints)
    return found, order[places[found]]


def near_overlap(signatures: Signature, others: Signature) -> Iterator[tuple[int, int, float]]:
    """(index, index of the most similar in `others` that was found, similarity), where that is `THRESHOLD` or more."""
    left, right = _neighbours(np.concatenate((others, signatures)), border=len(others))
    likeness = _likeness(np.concatenate((others, signatures)), left, right)
    best: dict[int, tuple[float, int]] = {}
    for a, b, value in zip(left.tolist(), right.tolist(), likeness.tolist(), strict=True):
        if value >= THRESHOLD:
            best[b] = max(best.get(b, (0.0, 0)), (value, -a))
    for index, (value, other) in sorted(best.items()):
        yield index - len(others), -other, value


def pairs(
    found: Iterable[tuple[int, int, float]], numbers: Sequence[int], others: Sequence[int]
) -> tuple[LinePair, ...]:
    return tuple(
        LinePair(validation_line=numbers[one], training_line=others[other], similarity=round(value, 2))
        for one, other, value in found
    )


def _said(line: Mapping[str, Any], shape: LineShape) -> str:
    """What users, assistants and tools say in a line, in one text."""
    if shape is LineShape.COMPLETION:
        return f"{line['prompt']} {line['completion']}"
    if shape is LineShape.PREFERENCE:
        messages = [*line["input"]["messages"], *line["preferred_output"], *line["non_preferred_output"]]
    else:
        messages = line["messages"]
    return " ".join(
        f"{text_of(message.get('content'))} {_calls(message)}"
        for message in messages
        if message["role"] not in SYSTEM_ROLES
    )


def _calls(message: Mapping[str, Any]) -> str:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    if message.get("function_call"):
        calls.append(message["function_call"])
    return " ".join(f"{call['name']} {call['arguments']}" for call in calls)


def _mix(values: Hashes) -> Hashes:
    """A 64-bit finaliser (splitmix64's): neighbouring pieces get unlike hashes."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed


#: Odd, so that each is a permutation of the 64-bit numbers.
_MULTIPLIERS: Hashes = _mix(np.arange(_SEED, _SEED + HASHES, dtype=np.uint64)) | np.uint64(1)


def _neighbours(signatures: Signature, border: int = 0) -> tuple[Indices, Indices]:
    """Pairs that share a band, each once: every member of a band's bucket with its first and with the one before it.

    With a `border`, pairs of one index below it and one from it on only.
    """
    rows = HASHES // BANDS
    codes = []
    size = len(signatures)
    for band in range(BANDS):
        part = signatures[:, band * rows : (band + 1) * rows]
        keys = (part.astype(np.uint64) * _MULTIPLIERS[:rows]).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        begins = np.r_[True, keys[order][1:] != keys[order][:-1]] if size else np.zeros(0, dtype=bool)
        places = np.arange(size)
        first = np.maximum.accumulate(np.where(begins, places, 0)) if size else places
        before = places - 1
        if border:  # within a bucket those below the border come first: the last of them
            below = np.where(order < border, places, -1)
            before = np.maximum.accumulate(below) if size else below
        for other in (first, before):
            is_pair = (other >= first) & (other != places)
            a, b = order[other[is_pair]], order[places[is_pair]]
            if border:
                crosses = (a < border) & (b >= border)
                a, b = a[crosses], b[crosses]
            codes.append(a.astype(np.int64) * size + b)
    unique = np.unique(np.concatenate(codes)) if codes else np.zeros(0, dtype=np.int64)
    return unique // max(size, 1), unique % max(size, 1)


def _likeness(signatures: Signature, left: Indices, right: Indices) -> npt.NDArray[np.float64]:
    """The share of equal hashes of each pair."""
    found = np.empty(len(left))
    for begin in range(0, len(left), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        found[part] = (signatures[left[part]] == signatures[right[part]]).mean(axis=1)
    return found
