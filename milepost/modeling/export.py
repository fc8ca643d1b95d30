"""A tuned model as a folder for other programs: PEFT's adapter, or a whole model with the adapter merged in.

Merged is in fp32: `W + scale · B·A` rounded to bf16 loses what is smaller than half a step of `W`, which is most of an
adapter (`adapters`). Who asks for bf16 gets the fp32 sum rounded once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from milepost.errors import Corrupt, Invalid, NotFound
from milepost.modeling import folders
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.adapters import PREFIX, key, peft_config, read_adapter
from milepost.resources.runs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Source

INDEX = "model.safetensors.index.json"

#: What a merged model may be written in.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export_peft(adapter: Source, base: Source, out: Path) -> None:
    """The adapter as `peft.PeftModel.from_pretrained` reads it; raises `Corrupt` if its bytes were changed."""
    file = Path(adapter.path) / ADAPTER_WEIGHTS
    config, _ = read_adapter(file, sha256=adapter.hash, base_hash=base.hash)
    with folders.published(_fresh(out)) as draft:
        shutil.copyfile(file, draft / ADAPTER_WEIGHTS)
        (draft / ADAPTER_CONFIG).write_text(_json(peft_config(config, base.name)), encoding="utf-8")


def export_merged(adapter: Source, base: Source, out: Path, dtype: str = "float32") -> None:
    """Base and adapter as one model, with tokenizer and template, as `AutoModelForCausalLM.from_pretrained` reads it.

    Raises `Corrupt` if the bytes of either were changed.
    """
    source = Path(base.path)
    if not source.is_dir():
        raise NotFound(f"The base model is not in {source}. Fetch it: `milepost pull {base.name}`", param="model")
    config, tensors = read_adapter(Path(adapter.path) / ADAPTER_WEIGHTS, sha256=adapter.hash, base_hash=base.hash)
    if (found := folders.folder_hash(source)) != base.hash:
        raise Corrupt(f"The base model in {source} has hash {found}, not {base.hash}: its files were changed")
    changes = _changes(config, tensors)
    with folders.published(_fresh(out)) as draft:
        left = set(changes)
        for file in sorted(source.iterdir()):
            if file.suffix == ".safetensors":
                left -= _merge(file, draft / file.name, changes, DTYPES[dtype])
            elif file.is_file() and file.name != folders.BASE_CARD:
                shutil.copyfile(file, draft / file.name)
        if left:
            raise Invalid(
                f"The files of {base.name} have no weight {min(left)}: they name it otherwise than transformers does, "
                "so the adapter cannot be merged. Export it with `--to peft`",
                param="to",
            )
        _say_dtype(draft, dtype)


def _changes(config: AdapterConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is added to each weight, by the base's name of it."""
    ends = key("", "A").removeprefix(PREFIX + ".")
    modules = [name.removeprefix(PREFIX + ".").removesuffix(ends) for name in tensors if name.endswith(ends)]
    return {
        f"{module}.weight": tensors[key(module, "B")].float() @ tensors[key(module, "A")].float() * config.scale
        for module in modules
    }


def _merge(source: Path, target: Path, changes: Mapping[str, Tensor], dtype: torch.dtype) -> set[str]:
    """Returns the names of the weights in this file."""
    merged = {}
    with safe_open(source, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            weight = opened.get_tensor(name).float()
            merged[name] = (weight + changes[name] if name in changes else weight).to(dtype)
    safetensors.torch.save_file(merged, target, metadata={"format": "pt"})
    return set(merged)


def _say_dtype(draft: Path, dtype: str) -> None:
    """In the configuration under both of its names, old and new; and the index's size, if there is one."""
    config = json.loads((draft / "config.json").read_bytes())
    (draft / "config.json").write_text(_json(config | {"dtype": dtype, "torch_dtype": dtype}), encoding="utf-8")
    if (draft / INDEX).exists():
        index = json.loads((draft / INDEX).read_bytes())
        size = sum(file.stat().st_size for file in draft.glob("*.safetensors"))
        index["metadata"] = index.get("metadata", {}) | {"total_size": size}
        (draft / INDEX).write_text(_json(index), encoding="utf-8")


def _fresh(out: Path) -> Path:
    if out.exists():
        raise Invalid(f"{out} is there already, and would be replaced. Name a folder that is not there", param="out")
    return out.resolve()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, indent=1) + "\n"
