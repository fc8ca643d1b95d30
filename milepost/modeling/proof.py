"""Whether our pass of a base is the base's: compared with transformers' own, as `milepost pull` fetches it.

For architectures nobody here has tried: what a look at their code and settings overlooks shows in the numbers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from milepost.errors import Invalid
from milepost.modeling.base import Raw, architecture
from milepost.modeling.cache import Cache
from milepost.modeling.generic import load_generic, load_reference
from milepost.modeling.model import Model, finished, plain_linear
from milepost.modeling.packed import pack, packed_attention

#: So many of a base's layers are compared: more than the patterns have that layers differ by.
LAYERS = 8

#: Lengths of the texts, of random tokens, and how much of each is a prompt; the rest comes one token at a time.
LENGTHS, PROMPTS = (24, 40), (15, 31)

#: The most that a logit may differ, in units of their own spread. In fp32 it is some millionths.
TOLERANCE = 1e-3


def prove(path: Path, raw: Raw) -> Model:
    """The first layers of a base, proved.

    Raises `Invalid` unless whole texts packed together, and texts read token by token beside each other, have the
    logits that transformers gives each of them alone, in fp32.
    """
    model = load_generic(path, raw, torch.float32, most_layers=LAYERS)
    reference = load_reference(path, torch.float32, attention="eager", most_layers=LAYERS)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, model.config.vocab, (length,), generator=generator) for length in LENGTHS]
    with torch.no_grad():
        expected = torch.cat([reference(text[None], use_cache=False).logits[0].float() for text in texts])
        for way, found in (("packed", _packed(model, texts)), ("cached", _cached(model, texts))):
            off = ((found - expected).abs().max() / expected.std()).item()
            if not off <= TOLERANCE:  # nor if it is no number
                raise Invalid(
                    f"The base model in {path} cannot be used: transformers' {architecture(raw)} gives other logits "
                    f"than it does through Milepost's attention ({way} texts, off by {off:.2g} of their spread)",
                    param="model",
                )
    return model


def _packed(model: Model, texts: list[Tensor]) -> Tensor:
    packed = pack(texts)
    return _logits(
        model,
        model.hidden_states(packed.tokens, packed.positions, plain_linear(model), packed_attention(packed)),
    )


def _cached(model: Model, texts: list[Tensor]) -> Tensor:
    """The prompts at once, then a token of each text in every step: both have as many left."""
    cache, linear = Cache(model.config, rows=len(texts), dtype=torch.float32), plain_linear(model)
    found: list[list[Tensor]] = []
    for row, (text, count) in enumerate(zip(texts, PROMPTS, strict=True)):
        attend = cache.prefilling(row, 0, count)
        found.append([model.hidden_states(text[:count], torch.arange(count), linear, attend)])
    for step in range(LENGTHS[0] - PROMPTS[0]):
        positions = [count + step for count in PROMPTS]
        tokens = torch.stack([text[at] for text, at in zip(texts, positions, strict=True)])
        hidden = model.hidden_states(tokens, torch.tensor(positions), linear, cache.decoding(positions))
        for row, each in enumerate(hidden):
            found[row].append(each[None])
    return _logits(model, torch.cat([torch.cat(parts) for parts in found]))


def _logits(model: Model, hidden: Tensor) -> Tensor:
    return finished(hidden @ model.head.T, model.finish)
