"""Answers that are JSON and nothing else: before each token, those that could not go on to a JSON object are ruled out.

The grammar is llguidance's; an end token is allowed once the object is whole, and must follow it.
"""

from __future__ import annotations

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from milepost.errors import Invalid
from milepost.modeling.template import Chat

#: White space may stand where JSON lets it, but not for ever: small models would never come to the point.
_OBJECT = LLMatcher.grammar_from_json_schema({"type": "object"}, overrides={"whitespace_pattern": r"[ \n\r\t]{0,8}"})


class Guide:
    """Where one answer is in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def restrict(self, logits: Tensor) -> None:
        """Rule out, in one row of logits (vocab,), in place, what cannot come next."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        logits.masked_fill_(torch.from_numpy(bits[: len(logits)] == 0).to(logits.device), -torch.inf)

    def take(self, token: int) -> None:
        """Raises `Invalid` for a token that was ruled out: it is drawn only where weights give no numbers."""
        if not self._matcher.consume_token(token):
            raise Invalid(
                "This model's logits are not numbers, as after a training that diverged, and no JSON can be made of "
                "them. Ask another checkpoint of its job",
                param="model",
            )


class Guides:
    """Makes guides for one base, whose vocabulary is read when the first is asked for: 0.3 s for 49,152 tokens."""

    def __init__(self, chat: Chat, vocab: int) -> None:
        self._chat = chat
        self._vocab = max(vocab, chat.tokenizer.get_vocab_size())
        self._tokenizer: LLTokenizer | None = None

    def json_object(self) -> Guide:
        if self._tokenizer is None:
            described = self._chat.tokenizer.to_str()
            self._tokenizer = LLTokenizer(described, n_vocab=self._vocab, eos_token=sorted(self._chat.end_ids))
        return Guide(LLMatcher(self._tokenizer, _OBJECT))
