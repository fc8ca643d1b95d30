"""Any causal language model, by transformers' own code: its linear modules are swapped for our products and its
attention for ours, so that adapters, batches without padding and the cache of `serving` are the same as for Llama.

All else in a layer must work on each token by itself. What does not (experts, convolutions, recurrences) is refused,
and so is any argument of attention that ours does not know; `milepost pull` compares the two passes as well (`proof`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milepost.errors import Invalid
from milepost.modeling.model import CAUSAL, Attend, Attention, Finish, Linear, Product, plain_linear
from milepost.modeling.template import context_length

#: What our attention is called among transformers'.
NAME = "milepost"

#: Arguments of attention that say nothing ours must know; any other that is not None is refused.
HARMLESS = frozenset({"position_ids", "position_embeddings", "use_cache", "output_attentions", "output_router_logits"})

#: What models do to their logits, by the names of the settings: how it becomes a `Finish`.
SCALES: Mapping[str, Callable[[float], float]] = {
    "logit_scale": lambda value: value,
    "logits_scaling": lambda value: 1 / value,
}
SOFTCAP = "final_logit_softcapping"


@dataclass(frozen=True, slots=True)
class GenericConfig:
    """`linears[layer]` are its products: each of one module, under its name within the layer."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    linears: tuple[Mapping[str, Product], ...]

    def products(self, layer: int) -> Mapping[str, Product]:
        return self.linears[layer]


@dataclass(frozen=True, slots=True)
class Generic:
    """Frozen base weights: those of products in `linears`, the others in `body`, transformers' model without head."""

    config: GenericConfig
    linears: tuple[dict[str, Tensor], ...]
    head: Tensor
    finish: Finish | None
    body: nn.Module
    seams: Seams

    @property
    def dtype(self) -> torch.dtype:
        return self.head.dtype

    @property
    def libraries(self) -> tuple[str, ...]:
        return ("transformers",)

    def with_linears(self, linears: tuple[dict[str, Tensor], ...]) -> Generic:
        return replace(self, linears=linears)

    def hidden_states(self, tokens: Tensor, positions: Tensor, linear: Linear, attend: Attend) -> Tensor:
        """Final normed hidden states (rows, hidden) of `tokens` (rows,) at `positions` (rows,).

        To transformers the rows are one sequence: which of them see each other is for `attend` to know.
        """
        with self.seams.through(linear, attend):
            hidden: Tensor = self.body(
                input_ids=tokens[None], position_ids=positions[None], use_cache=False
            ).last_hidden_state[0]
        return hidden


class Seams:
    """Where a model's layers find what they compute with, while a pass lasts."""

    linear: Linear
    attend: Attend

    @contextmanager
    def through(self, linear: Linear, attend: Attend) -> Iterator[None]:
        self.linear, self.attend = linear, attend
        try:
            yield
        finally:
            del self.linear, self.attend


class _Seam(nn.Module):
    """In the place of a linear layer: the product is ours, the bias stays its own."""

    def __init__(self, seams: Seams, layer: int, name: str, bias: Tensor | None) -> None:
        super().__init__()
        self._seams, self._layer, self._name, self._bias = seams, layer, name, bias

    def forward(self, x: Tensor) -> Tensor:
        y = self._seams.linear(self._layer, self._name, x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
        return y if self._bias is None else y + self._bias


def load_generic(path: Path, raw: Mapping[str, Any], dtype: torch.dtype, *, most_layers: int | None = None) -> Generic:
    """Read a base's weights into transformers' model; raises `Invalid` if it does not run through our products.

    Its first `most_layers` layers only, if so asked.
    """
    whole = load_reference(path, dtype, attention=NAME, most_layers=most_layers)
    if deep := [name for name, weight in whole.named_parameters() if weight.ndim > 2]:
        raise _unusable(path, f"it has experts or convolutions ({deep[0]}), which are not supported yet")
    body, seams = getattr(whole, whole.base_model_prefix), Seams()
    layers = _layers_of(whole, path)
    weights = tuple(_swap(layer, seams, number) for number, layer in enumerate(layers.values()))
    if not all(weights):
        raise _unusable(path, "some of its layers have no linear module that could be adapted")
    head, bias = whole.get_output_embeddings().weight.data, getattr(whole.get_output_embeddings(), "bias", None)
    products = tuple(
        {name: Product(weight.shape[1], {f"{place}.{name}": len(weight)}) for name, weight in found.items()}
        for place, found in zip(layers, weights, strict=True)
    )
    sizes = GenericConfig(len(layers), 0, 0, 0, len(head), context_length(raw), products)
    model = Generic(sizes, weights, head, _finish(whole.config, bias), body, seams)
    return replace(model, config=_observed(model, path))


def load_reference(path: Path, dtype: torch.dtype, *, attention: str, most_layers: int | None = None) -> Any:
    """The model of transformers of a base as it is, in evaluation, its weights frozen.

    Raises `Invalid` if transformers does not know it, or does not let its attention be replaced, or if the base lacks
    weights: those would be drawn at random.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    AttentionInterface.register(NAME, _attention)
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        _refuse(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, path)
        _cut(config, most_layers)
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise _unusable(path, f"transformers {version('transformers')} cannot load it: {error}") from error
    if lost := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
        raise _unusable(path, f"its files lack weights that its architecture has, {lost[0]} among them")
    return model.eval().requires_grad_(False).to(torch.get_default_device())


def _cut(config: Any, most_layers: int | None) -> None:
    if most_layers is not None and config.num_hidden_layers > most_layers:
        kinds = getattr(config, "layer_types", None)
        config.num_hidden_layers = most_layers
        if kinds:
            config.layer_types = kinds[:most_layers]


def _refuse(kind: type, config: Any, path: Path) -> None:
    if [kind.__name__] != config.architectures:
        raise _unusable(path, f"it is a {config.architectures[0]}, but transformers computes it with {kind.__name__}")
    if not kind._supports_attention_backend:  # type: ignore[attr-defined]  # noqa: SLF001 (transformers' own word for it)
        raise _unusable(path, f"transformers' {kind.__name__} does not let its attention be replaced")


def _layers_of(whole: Any, path: Path) -> dict[str, nn.Module]:
    """The model's layers by their full names."""
    count = whole.config.num_hidden_layers
    for name, module in whole.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and _attends(module):
            return {f"{name}.{number}": layer for number, layer in enumerate(module)}
    raise _unusable(path, f"transformers' {type(whole).__name__} has no list of its {count} layers")


def _attends(layers: nn.ModuleList) -> bool:
    return all(any(hasattr(part, "layer_idx") for part in layer.modules()) for layer in layers)


def _swap(layer: nn.Module, seams: Seams, number: int) -> dict[str, Tensor]:
    """Put seams in the place of a layer's linear modules; their weights by their names within it."""
    weights = {}
    for name, module in list(layer.named_modules()):
        if hasattr(module, "layer_idx"):
            module.seams = seams
        if type(module) is nn.Linear:  # not one of its kinds, which may compute otherwise
            bias = None if module.bias is None else module.bias.data
            weights[name] = module.weight.data
            layer.set_submodule(name, _Seam(seams, number, name, bias))
    return weights


def _attention(  # as transformers calls it
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Of q (1, heads, rows, head_dim), k and v (1, kv_heads, rows, head_dim): (1, rows, heads, head_dim)."""
    unknown = sorted(name for name, given in others.items() if given is not None and name not in HARMLESS)
    if attention_mask is not None:
        unknown.append("attention_mask")
    if unknown or dropout or is_causal is False or not getattr(module, "is_causal", True):
        what = ", ".join(unknown) or "dropout, or to see what comes after"
        raise Invalid(f"{type(module).__name__} asks its attention for {what}, which is not supported", param="model")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    how = Attention(scale=scaling, window=sliding_window, softcap=softcap)
    return module.seams.attend(module.layer_idx, q, k, v, how)[None], None


def _finish(config: Any, bias: Tensor | None) -> Finish | None:
    scales = (become(float(getattr(config, name))) for name, become in SCALES.items() if hasattr(config, name))
    scale, softcap = math.prod(scales), getattr(config, SOFTCAP, None)
    if bias is None and scale == 1.0 and softcap is None:
        return None
    return Finish(None if bias is None else bias.data, scale, softcap)


def _observed(model: Generic, path: Path) -> GenericConfig:
    """The sizes that attention has in a pass of one token. Raises `Invalid` unless all layers attend, and alike."""
    seen: dict[int, tuple[int, int, int]] = {}
    windows: dict[int, int | None] = {}

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, how: Attention = CAUSAL) -> Tensor:
        if k.shape != v.shape or k.shape[-1] != q.shape[-1] or q.shape[1] % k.shape[1]:
            raise _unusable(
                path,
                f"layer {layer} attends with queries of {tuple(q.shape[1:])}, keys of "
                f"{tuple(k.shape[1:])} and values of {tuple(v.shape[1:])}",
            )
        seen[layer], windows[layer] = (q.shape[1], k.shape[1], q.shape[2]), how.window
        return v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # what one token sees is itself

    one = torch.zeros(1, dtype=torch.int64)
    try:
        with torch.no_grad():
            model.hidden_states(one, one, plain_linear(model), attend)
    except (AttributeError, TypeError, RuntimeError) as error:  # the code of architectures nobody has tried
        raise _unusable(path, f"transformers' code of it does not run through our products: {error}") from error
    if sorted(seen) != list(range(model.config.layers)) or len(set(seen.values())) != 1:
        raise _unusable(path, "not all of its layers attend, or not with the same number of heads")
    kinds = getattr(model.body.config, "layer_types", None) or ()
    if any((kind == "sliding_attention") != (windows[layer] is not None) for layer, kind in enumerate(kinds)):
        raise _unusable(path, "its layers' attention does not have the windows that its config.json says")
    heads, kv_heads, head_dim = seen[0]
    return replace(model.config, heads=heads, kv_heads=kv_heads, head_dim=head_dim)


def _unusable(path: Path, why: str) -> Invalid:
    return Invalid(f"The base model in {path} cannot be used: {why}", param="model")
