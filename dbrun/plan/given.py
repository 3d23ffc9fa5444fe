"""Which adapter does `adapt.<component>.init` name, and can it be what the recipe says? Read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.families.base import Family
from dbrun.provenance import header
from dbrun.store.disk import said
from dbrun.store.store import Store

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LORA_FILE = "pytorch_lora_weights.safetensors"
NAMED = f"name a PEFT folder ({CONFIG} and {WEIGHTS}), or a {LORA_FILE}"


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter by its contents. identity: as in `Sources.inits`; files: digest -> a file with it."""

    identity: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Wanted:
    """What an adapter is to be started for. beside: where a relative path begins."""

    family: Family
    component: str
    adapter: Adapter
    beside: Path


def find_adapter(path: str, wanted: Wanted, store: Store) -> FoundAdapter:
    """The adapter at a path. Raises RecipeError where it is none of the wanted type and component."""
    place = wanted.beside / Path(path).expanduser()
    try:
        if (place / CONFIG).is_file():
            _check_config(place, wanted.adapter)
            return _found("peft", [place / CONFIG, place / WEIGHTS], store)
        file = place / LORA_FILE if place.is_dir() else place
        _check_names(file, wanted)
        return _found("diffusers", [file], store)
    except OSError as error:
        raise said(error, f"reading the adapter {place}") from error


def _found(form: str, paths: list[Path], store: Store) -> FoundAdapter:
    digests = [store.digests.of(path) for path in paths]
    return FoundAdapter(f"{form}:{'+'.join(digests)}", dict(zip(digests, paths, strict=True)))


def _check_config(folder: Path, adapter: Adapter) -> None:
    """Raise unless a PEFT folder is whole and of the adapter's type."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        found = str(config["peft_type"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{folder / CONFIG} names no `peft_type`, so it is no adapter's config", fix=NAMED) from error
    if not (folder / WEIGHTS).is_file():
        raise RecipeError(f"{folder} holds no {WEIGHTS}; pickled weights are never read",
                          fix="save the adapter again with `save_pretrained(…, safe_serialization=True)`")
    header(folder / WEIGHTS)
    _check_type(found.lower(), folder, adapter)


def _check_names(file: Path, wanted: Wanted) -> None:
    """Raise unless a file holds LoRA weights of the component under diffusers' names."""
    if not file.is_file() or file.suffix != ".safetensors":
        what = "is not there" if not file.exists() else "is no adapter"
        raise RecipeError(f"{file} {what}", fix=NAMED)
    names, prefix = header(file).tensors, wanted.family.components[wanted.component]
    if foreign := [name for name in sorted(names) if name.startswith(("lora_unet_", "lora_te", "lycoris_"))]:
        raise RecipeError(f"{file} has kohya's names, such as {foreign[0]}",
                          fix="load it with diffusers' `load_lora_weights`, and save it with `save_lora_weights`")
    own = [name for name in names if name.startswith(f"{prefix}.")]
    if not own:
        parts = ", ".join(sorted({name.partition(".")[0] for name in names})) or "nothing"
        raise RecipeError(f"{file} holds no weights of `{prefix}`, the {wanted.component}; it holds {parts}",
                          fix=f"take `adapt.{wanted.component}.init` away, or name another file")
    if other := [name for name in sorted(own) if "lora" not in name]:
        raise RecipeError(f"{file} holds other weights than LoRA's, such as {other[0]}", fix=NAMED)
    _check_type("lora", file, wanted.adapter)


def _check_type(found: str, place: Path, adapter: Adapter) -> None:
    if found != adapter.NAME:
        raise RecipeError(f"{place} is an adapter of type {found}, but the recipe says `type: {adapter.NAME}`",
                          fix=f"write `type: {found}`, or name another adapter")
