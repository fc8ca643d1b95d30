"""The adapters an engine holds, in slots, so that rows of different adapters share each forward pass.

A row's product is `x·Wᵀ + h·b` with `h = x·aᵀ` of its own slot, as in training. It is rounded once: the small product
is added to the sum of the large one before that is rounded. A decode step's rows get their own small products from
`modeling.kernels`, where there are any. Else, and for prompts, they are computed for every slot in use, each in the
same shape whatever the others, the other slots' `h` are zeroed, and all are added up: a row gets its own and exact
zeros. Either way a row has the same bits in any company. (One product of wide matrices `[W | b₀ | b₁ …]` would do in
bf16; in fp32 MKL cuts sums of different lengths at different places.)

Slots are few, since each in use adds its products to every row's. Beside them, adapters that were asked for lately are
kept in memory, verified and fused, the least recently asked for giving way: bringing one of them into a slot is a copy.

An adapter is known by its hash alone. One that is not there, not the bytes of its hash, or not of finite numbers is an
error of the request that named it, never the base.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from milepost.errors import Invalid
from milepost.modeling.adapter_files import shown
from milepost.modeling.adapters import Adapter, load_adapter
from milepost.modeling.kernels import Kernels
from milepost.modeling.model import Linear, Model
from milepost.resources.runs import ADAPTER_WEIGHTS, Source
from milepost.serving.products import product

#: Slots are wide enough for this rank from the first; they are widened when an adapter of a higher rank comes.
LEAST_RANK = 16


class Adapters:
    """The base's products, and the adapters' beside them.

    `a[layer][name]` is (slots, parts · rank, in), `b[layer][name]` (slots, parts · rank, out).
    """

    def __init__(
        self, model: Model, *, base_hash: str, slots: int, kept_bytes: int = 0, kernels: Kernels | None = None
    ) -> None:
        self._kernels = kernels
        self._config = model.config
        self._dtype = model.dtype
        self._layers = [model.config.products(layer) for layer in range(model.config.layers)]
        self._products = [{name: product(weight) for name, weight in each.items()} for each in model.linears]
        self._base_hash = base_hash
        self._slots = slots
        self._rank = 0
        self._ranks = torch.zeros(slots, dtype=torch.int64)  # of the adapter in each slot
        self._ends = [
            {name: torch.tensor(list(each.parts.values())).cumsum(0) for name, each in products.items()}
            for products in self._layers
        ]  # of each product's parts among its outputs
        self._a: list[dict[str, Tensor]] = [{} for _ in model.linears]
        self._b: list[dict[str, Tensor]] = [{} for _ in model.linears]
        self._slot_of: dict[str, int] = {}  # by hash, least recently asked for first
        self._kept: OrderedDict[str, Adapter] = OrderedDict()  # by hash, least recently asked for first
        self._kept_bytes, self._bytes = kept_bytes, 0
        self._stamp_of: dict[str, Stamp] = {}  # of the file each hash was last verified from
        self._holders: Counter[int] = Counter()
        self.found = Counter({"slot": 0, "memory": 0, "disk": 0})  # where requests found their adapters
        self.evicted = Counter({"slot": 0, "memory": 0})

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
        adapter = self._verified(Path(source.path) / ADAPTER_WEIGHTS, source.hash)
        self.found["disk" if adapter else "slot" if source.hash in self._slot_of else "memory"] += 1
        if source.hash not in self._slot_of:
            self.evicted["slot"] += slot in self._slot_of.values()
            self._fill(slot, adapter or self._kept[source.hash])
        self._slot_of = {digest: at for digest, at in self._slot_of.items() if at != slot} | {source.hash: slot}
        if adapter:
            self._keep(source.hash, adapter)
        elif source.hash in self._kept:
            self._kept.move_to_end(source.hash)
        self._stamp_of = {digest: stamp for digest, stamp in self._stamp_of.items() if self._is_here(digest)}
        self._holders[slot] += 1
        return slot

    def release(self, slot: int) -> None:
        self._holders[slot] -= 1

    def linear(self, slots: Sequence[int | None]) -> Linear:
        """The products of a step whose rows have these adapters' slots; one entry alone stands for every row."""
        held = [slot for slot in slots if slot is not None]
        if not held:
            return lambda layer, name, x: self._products[layer][name](x)
        own = torch.tensor([-1 if slot is None else slot for slot in slots])
        if self._kernels and len(slots) > 1:
            return partial(self._by_row, self._kernels, own)
        used = slice(min(held), max(held) + 1)
        others = torch.arange(used.start, used.stop)[:, None, None] != own[:, None]  # (used, rows, 1)

        def linear(layer: int, name: str, x: Tensor) -> Tensor:
            a, b = self._a[layer][name][used], self._b[layer][name][used]
            h = torch.bmm(x.expand(len(a), -1, -1), a.transpose(1, 2)).masked_fill_(others, 0)
            return self._products[layer][name].plus(x, torch.bmm(h, b).sum(0))

        return linear

    def _by_row(self, kernels: Kernels, own: Tensor, layer: int, name: str, x: Tensor) -> Tensor:
        small = kernels.lora(
            x, self._a[layer][name], self._b[layer][name], slots=own, ranks=self._ranks, ends=self._ends[layer][name]
        )
        return self._products[layer][name].plus(x, small)

    def _free_slot(self) -> int | None:
        """The lowest slot never filled, or that of the adapter least recently asked for which no request holds.

        To evict one that is held would change its weights in the middle of an answer.
        """
        unused = set(range(self._slots)) - set(self._slot_of.values())
        idle = (slot for slot in self._slot_of.values() if not self._holders[slot])
        return min(unused) if unused else next(idle, None)

    def _verified(self, path: Path, sha256: str) -> Adapter | None:
        """Read and check an adapter's file, unless it is here and its file is still the one that was checked."""
        stamp = _stamp(path)
        if stamp is not None and stamp == self._stamp_of.get(sha256) and self._is_here(sha256):
            return None
        adapter = self._load(path, sha256)
        self._stamp_of[sha256] = stamp
        return adapter

    def _is_here(self, sha256: str) -> bool:
        return sha256 in self._slot_of or sha256 in self._kept

    def _keep(self, sha256: str, adapter: Adapter) -> None:
        if sha256 in self._kept:
            self._kept.move_to_end(sha256)
        elif adapter.nbytes <= self._kept_bytes:
            self._kept[sha256] = adapter
            self._bytes += adapter.nbytes
        while self._bytes > self._kept_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
            self.evicted["memory"] += 1

    def _load(self, path: Path, sha256: str) -> Adapter:
        adapter = load_adapter(path, sha256=sha256, base_hash=self._base_hash, model=self._config, dtype=self._dtype)
        tensors = (tensor for side in (adapter.a, adapter.b) for layer in side for tensor in layer.values())
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            # Its zeros in other rows would be 0 · ∞: one diverged run would silence its neighbours.
            raise Invalid(
                f"The adapter {shown(path)} has weights that are not finite: its training diverged", param="model"
            )
        return adapter

    def _fill(self, slot: int, adapter: Adapter) -> None:
        if adapter.rank > self._rank:
            self._widen(max(adapter.rank, LEAST_RANK))
        for layer, products in enumerate(self._layers):
            for name, each in products.items():
                columns = len(each.parts) * adapter.rank
                self._a[layer][name][slot].zero_()[:columns] = adapter.a[layer][name]
                self._b[layer][name][slot].zero_()[:columns] = adapter.b[layer][name].t()
        self._ranks[slot] = adapter.rank

    def _widen(self, rank: int) -> None:
        """Make room for `rank` in every slot; the adapters that lie in slots stay."""
        for layer, products in enumerate(self._layers):
            for name, each in products.items():
                parts = len(each.parts)  # an adapter's h has so many times its rank columns
                a = torch.zeros(self._slots, parts * rank, each.inputs, dtype=self._dtype)
                b = torch.zeros(self._slots, parts * rank, each.outputs, dtype=self._dtype)
                if self._rank:
                    columns = parts * self._rank
                    a[:, :columns], b[:, :columns] = self._a[layer][name], self._b[layer][name]
                self._a[layer][name], self._b[layer][name] = a, b
        self._rank = rank


#: What tells that a file is still the one that was verified: path, inode, size and time of its last change.
Stamp = tuple[Path, int, int, int] | None


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return path, stat.st_ino, stat.st_size, stat.st_mtime_ns
