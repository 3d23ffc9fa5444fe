"""What does a safetensors file say about itself? Read by hand, so that no tensor library is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dbrun.errors import RecipeError

METADATA_KEY = "dbrun"
"""The metadata key that holds dbrun's document, as JSON."""
RECORD_FILE = "dbrun.json"
"""What beside delivered files tells how they came to be."""
MAX_PARENTS = 4
"""Folders above a delivered file in which its record may lie."""
MAX_HEADER_BYTES = 100 * 2**20
"""Bytes that a header may have; the format's own limit."""


@dataclass(frozen=True)
class Header:
    """A safetensors header. tensors: name -> dtype, shape, place; data_start: where the tensors' bytes begin."""

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """The header of a whole and well-formed safetensors file. Raises RecipeError for anything else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _invalid_file(path, f"its header says {length} bytes, the file has {size}")
        text = file.read(length)
    try:
        document = json.loads(text)
        metadata = document.pop("__metadata__", {})
        end = max((int(tensor["data_offsets"][1]) for tensor in document.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _invalid_file(path, "its header cannot be read") from error
    if not isinstance(metadata, dict):
        raise _invalid_file(path, "its metadata is no table")
    if 8 + length + end != size:
        raise _invalid_file(path, f"its header promises {8 + length + end} bytes, the file has {size}")
    return Header(document, metadata, 8 + length)


def tensor_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Name → shape of the tensors in a safetensors file, read again only once it has changed.
    Raises as `read_header`."""
    return _tensor_shapes(path, path.stat().st_mtime_ns)


@cache
def _tensor_shapes(path: Path, changed: int) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor["shape"]) for name, tensor in read_header(path).tensors.items()}


def read_provenance(path: Path) -> dict[str, object]:
    """The provenance that dbrun wrote into an exported adapter. Raises RecipeError where there is none."""
    if not path.is_file():
        raise RecipeError(f"{path} is {'a folder' if path.is_dir() else 'not there'}", fix=_suggest_file(path))
    text = read_header(path).metadata.get(METADATA_KEY)
    try:
        document = json.loads(text) if text else None
    except (ValueError, TypeError):
        document = None
    if not isinstance(document, dict):
        raise RecipeError(f"{path} holds no provenance of dbrun", fix="name a file that `dbrun run` exported")
    return document


def _suggest_file(path: Path) -> str:
    """Which file to name: one in the folder that was named, where there is one."""
    found = sorted(path.glob("*.safetensors")) or sorted(path.glob("*/*.safetensors"))
    return f"name a file in it, such as {found[0]}" if found else "name an exported .safetensors file"


def find_record(path: Path, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The record of the delivery that an exported file is of, which lies in a folder above it; None where none does.

    document: what `read_provenance` gave. A record of another training is none.
    """
    for record in read_records(list(path.absolute().parents)[:MAX_PARENTS]):
        try:
            same = record["stages"]["train"]["digest"] == document["inputs"]["train"]
        except (KeyError, TypeError):
            continue
        return record if same else None
    return None


def read_records(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The records of deliveries that lie in these folders, as far as they can be read."""
    for folder in folders:
        try:
            record = json.loads((folder / RECORD_FILE).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            yield record


def trigger_words(recipe: Mapping[str, Any]) -> str | None:
    """The words of the instance prompts that no class prompt has; the new word itself, where one learns.

    recipe: as in the provenance. None where nothing tells them apart.
    """
    for taught in (recipe.get("adapt") or {}).values():
        if isinstance(taught, Mapping) and "token" in taught:
            return str(taught["token"])
    subjects = [recipe["subject"]] if "subject" in recipe else recipe.get("subjects", [])
    found: list[str] = []
    for one in subjects:
        classes = one.get("class_prompt") or ()
        usual = {word for text in ([classes] if isinstance(classes, str) else classes) for word in text.split()}
        found += [word for word in (one.get("instance_prompt") or "").split() if usual and word not in usual]
    return " ".join(dict.fromkeys(found)) or None


def _invalid_file(path: Path, why: str) -> RecipeError:
    if path.suffix != ".safetensors":
        return RecipeError(f"{path} is no .safetensors file: {why}", fix="name one that a run exported")
    return RecipeError(f"{path} is no whole safetensors file: {why}", fix="fetch or write the file again")
