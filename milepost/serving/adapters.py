"""The adapters an engine holds, in slots, so that rows of different adapters share each matrix product.

Each of a layer's products has one wide matrix `[W | b₀ | b₁ | …]`: the base's columns, then a block per slot. A row
brings `[x | 0 | h | 0]`: its own `h = x·aᵀ` in its own slot's block, zeros in the others'. So whatever a row's adapter,
its product is the `[x | h]·[W | b]ᵀ` of training, summed in fp32 and rounded once (modeling/adapters.py); zeros add
nothing. Blocks past the highest slot in use are left out of the product.

An adapter is known by its hash alone. One that is not there, not the bytes of its hash, or not of finite numbers is an
error of the request that named it, never the base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from milepost.errors import Invalid
from milepost.modeling.adapters import Adapter, load_adapter
from milepost.modeling.llama import FUSED, Linear, Llama
from milepost.resources.runs import ADAPTER_WEIGHTS, Source

#: How many parts each product fuses: an adapter's h has that many times its rank columns.
PARTS = {name: len(parts) for name, parts in FUSED.items()}


class Adapters:
    """Takes over the base's products: `wide[layer][name]` is (out, in + slots · parts · rank), `a` the matching A."""

    def __init__(self, model: Llama, *, base_hash: str, slots: int) -> None:
        self._base_hash = base_hash
        self._dtype = model.dtype
        self._config = model.config
        self._slots = slots
        self._rank = 0  # columns of a slot's block, per part; grows to the highest rank seen
        self._wide = [dict(products) for products in model.linears]
        self._a = [{name: weight.new_empty(0, 0) for name, weight in products.items()} for products in model.linears]
        self._slot_of: dict[str, int] = {}  # by hash, least recently asked for first
        self._stamp_of: dict[str, Stamp] = {}  # of the file each hash was last verified from
        self._holders: Counter[int] = Counter()

    @property
    def loaded(self) -> frozenset[str]:
        """The hashes of the adapters that lie in a slot."""
        return frozenset(self._slot_of)

    def hold(self, source: Source) -> int | None:
        """The slot of this adapter, loaded if need be and kept until `release`; None while running requests hold all.

        Raises `Corrupt` also for an adapter that lies in a slot, if its file has since been deleted or changed.
        """
        slot = self._slot_of.get(source.hash, self._free_slot())
        if slot is None:
            return None
        path = Path(source.path) / ADAPTER_WEIGHTS
        stamp = _stamp(path)
        if stamp is None or stamp != self._stamp_of.get(source.hash):
            adapter = self._load(path, source.hash)
            if source.hash not in self._slot_of:
                self._fill(slot, adapter)
        self._slot_of = {digest: at for digest, at in self._slot_of.items() if at != slot} | {source.hash: slot}
        self._stamp_of = {digest: self._stamp_of.get(digest) for digest in self._slot_of} | {source.hash: stamp}
        self._holders[slot] += 1
        return slot

    def release(self, slot: int) -> None:
        self._holders[slot] -= 1

    def linear(self, slots: Sequence[int | None]) -> Linear:
        """The products of a step whose rows have these adapters' slots; one entry alone stands for every row."""
        used = 1 + max((slot for slot in slots if slot is not None), default=-1)
        own = torch.tensor([-1 if slot is None else slot for slot in slots])
        blocks = own.unsqueeze(1) == torch.arange(used)  # (rows, used)
        others = {name: ~blocks.repeat_interleave(parts * self._rank, dim=1) for name, parts in PARTS.items()}

        def linear(layer: int, name: str, x: Tensor) -> Tensor:
            wide = self._wide[layer][name]
            if not used:
                return functional.linear(x, wide[:, : x.shape[-1]])
            columns = others[name].shape[1]
            h = functional.linear(x, self._a[layer][name][:columns]).masked_fill_(others[name], 0)
            return functional.linear(torch.cat((x, h), dim=-1), wide[:, : x.shape[-1] + columns])

        return linear

    def _free_slot(self) -> int | None:
        """The lowest slot never filled, or that of the adapter least recently asked for which no request holds.

        To evict one that is held would change its weights in the middle of an answer.
        """
        unused = set(range(self._slots)) - set(self._slot_of.values())
        idle = (slot for slot in self._slot_of.values() if not self._holders[slot])
        return min(unused) if unused else next(idle, None)

    def _load(self, path: Path, sha256: str) -> Adapter:
        adapter = load_adapter(path, sha256=sha256, base_hash=self._base_hash, dtype=self._dtype)
        tensors = (tensor for side in (adapter.a, adapter.b) for layer in side for tensor in layer.values())
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            # Its zeros in other rows would be 0 · ∞: one diverged run would silence its neighbours.
            raise Invalid(f"The adapter {path} has weights that are not finite: its training diverged", param="model")
        return adapter

    def _fill(self, slot: int, adapter: Adapter) -> None:
        if adapter.rank > self._rank:
            self._widen(adapter.rank)
        for layer, (wide, a) in enumerate(zip(self._wide, self._a, strict=True)):
            for name, parts in PARTS.items():
                inputs, _ = self._config.features(name)
                begin, size = slot * parts * self._rank, parts * self._rank
                block, rows = wide[name][:, inputs + begin :][:, :size], a[name][begin : begin + size]
                block.zero_()[:, : parts * adapter.rank] = adapter.b[layer][name]
                rows.zero_()[: parts * adapter.rank] = adapter.a[layer][name]

    def _widen(self, rank: int) -> None:
        """Make every slot's block `rank` wide; the adapters that lie in slots stay."""
        for wide, a in zip(self._wide, self._a, strict=True):
            for name, parts in PARTS.items():
                inputs, _ = self._config.features(name)
                old, new = parts * self._rank, parts * rank
                weight, down = wide[name], a[name]
                wide[name] = weight.new_zeros(weight.shape[0], inputs + self._slots * new)
                wide[name][:, :inputs] = weight[:, :inputs]
                a[name] = down.new_zeros(self._slots * new, inputs)
                for slot in range(self._slots) if self._rank else ():
                    wide[name][:, inputs + slot * new :][:, :old] = weight[:, inputs + slot * old :][:, :old]
                    a[name][slot * new :][:old] = down[slot * old :][:old]
        self._rank = rank


#: What tells that a file is still the one that was verified: path, inode, size and time of its last change.
Stamp = tuple[Path, int, int, int] | None


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return path, stat.st_ino, stat.st_size, stat.st_mtime_ns
