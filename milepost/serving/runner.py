"""What computes: prompts in pieces of a fixed size, and one token of every running sequence at once.

Neither result depends on who else is being served. A prompt is computed alone, cut at the same places whatever goes on
around it. A step's rows are padded to a multiple of four: products of fewer rows, or of a remainder, take other
instructions and round otherwise.

A prompt that begins as an earlier one did takes the whole pieces they have in common from `Prefixes`: those of a system
prompt, behind which a prompt is cut, and others of 256 tokens. Smaller ones would find more in common, but products of
fewer rows use the processor worse (`bench/LOG.md`).
"""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import torch
from torch import Tensor

from milepost.modeling.cache import Cache
from milepost.modeling.decode import can_decode, decode
from milepost.modeling.kernels import Kernels
from milepost.modeling.model import Attend, Linear, Model, finished
from milepost.serving.adapters import Adapters
from milepost.serving.prefixes import Piece, Prefixes, pieces_of
from milepost.serving.products import product
from milepost.serving.scheduler import Request, Sequence

#: Tokens of a prompt computed between two decode steps, so that running answers go on meanwhile.
PIECE = 256

#: A step's rows are a multiple of this.
ROWS = 4


class Runner:
    """The cache's last row is where prompts are computed; a finished one is copied to a row for each choice."""

    def __init__(
        self, model: Model, adapters: Adapters, *, rows: int, prefix_bytes: int = 0, kernels: Kernels | None = None
    ) -> None:
        self._kernels = kernels
        self._model = model.with_linears(())  # `adapters` has them, in another layout
        self._head = product(model.head)
        self._adapters = adapters
        self._prompt_row = rows + -rows % ROWS
        self._cache = Cache(model.config, rows=self._prompt_row + 1, dtype=model.dtype)
        self._prefixes = Prefixes(most_bytes=prefix_bytes)

    @property
    def vocab(self) -> int:
        return self._model.config.vocab

    def prefill(self, request: Request) -> Tensor | None:
        """Compute the next piece of a prompt; after its last, `request.logits` tell its first token.

        Returns the logits (piece, vocab) after each of its tokens, if they are to be told; else None.
        """
        pieces = _pieces(request)
        if not request.computed and not request.is_scored:
            self._recall(request, pieces)
        start = request.computed
        piece = next(piece for piece in pieces if piece.start == start)
        tokens = request.prompt[start : piece.end]
        request.computed = piece.end
        attend = self._cache.prefilling(self._prompt_row, start, len(tokens))
        positions = range(start, request.computed)
        hidden = self._forward(tokens, positions, self._adapters.linear([request.slot]), attend)
        if request.computed == len(request.prompt):
            request.logits = self._head_logits(hidden[-1:])
        if piece.key is not None:
            self._prefixes.keep(piece.key, self._cache.read(self._prompt_row, start, piece.end))
        return self._head_logits(hidden) if request.is_scored else None

    def _recall(self, request: Request, pieces: Sequences[Piece]) -> None:
        """Take what an earlier prompt has in common; the last piece is computed, since its logits are needed."""
        for piece, kept in zip(
            pieces, self._prefixes.find([piece.key for piece in pieces[:-1] if piece.key]), strict=False
        ):
            self._cache.write(self._prompt_row, piece.start, kept)
            request.computed = piece.end
        if request.cached_tokens is None:
            request.cached_tokens = request.computed

    def place(self, sequence: Sequence, row: int) -> None:
        self._cache.copy(self._prompt_row, row, len(sequence.request.prompt))

    def move(self, sequence: Sequence, source: int, target: int) -> None:
        """Close the gap a finished sequence left with the last one."""
        self._cache.copy(source, target, sequence.position)

    def clear(self, row: int, length: int) -> None:
        self._cache.clear(row, length)

    def decode(self, running: Sequences[Sequence]) -> Tensor:
        """Logits (running, vocab) after the last token of each running sequence, in fp32."""
        padding = -len(running) % ROWS
        tokens = [sequence.tokens[-1] for sequence in running] + [0] * padding
        positions = [sequence.position for sequence in running] + [0] * padding
        linear = self._adapters.linear([sequence.request.slot for sequence in running] + [None] * padding)
        if self._kernels and can_decode(self._model):
            hidden = decode(self._model, self._kernels, self._cache, tokens=tokens, positions=positions, linear=linear)
        else:
            hidden = self._forward(tokens, positions, linear, self._cache.decoding(positions))
        return self._head_logits(hidden)[: len(running)]

    def _forward(self, tokens: Sequences[int], positions: Sequences[int], linear: Linear, attend: Attend) -> Tensor:
        return self._model.hidden_states(torch.tensor(tokens), torch.tensor(positions), linear, attend)

    def _head_logits(self, hidden: Tensor) -> Tensor:
        return finished(self._head(hidden).float(), self._model.finish)


def _pieces(request: Request) -> list[Piece]:
    adapter = request.adapter.hash if request.adapter else None
    return list(pieces_of(request.prompt, PIECE, request.head, adapter=adapter, client=request.client))
