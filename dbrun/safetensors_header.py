"""Headers of safetensors files and dbrun's provenance in them, read without a tensor library."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dbrun.errors import RecipeError
from dbrun.input_file import folder_exists, open_file, parse_json, path_exists, read_json
from dbrun.provenance_check import find_damage

METADATA_KEY = "dbrun"
"""The metadata key that holds dbrun's document, as JSON."""
RECORD_FILE = "dbrun.json"
"""File beside delivered files that records how they were made."""
IN_PROGRESS = "in_progress"
"""Member of a record whose folder shows a training that has not delivered yet."""
MAX_PARENTS = 4
"""Number of folders above a delivered file that are searched for its record."""
MAX_HEADER_BYTES = 100 * 2**20
"""Largest header in bytes; the format's own limit."""


@dataclass(frozen=True)
class Header:
    """A safetensors header. tensors: name → dtype, shape, data_offsets; data_start: offset of the first tensor's bytes.
    """

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Header of a complete, well-formed safetensors file. Raises RecipeError for anything else."""
    try:
        file = open_file(path)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}", fix=_suggest_file(path)) from error
    with file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        # checked before reading: a damaged length could ask for exabytes
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise _invalid_file(path, f"its header says {length} bytes, the file has {size}")
        text = file.read(length)
    try:
        document = parse_json(text)
        metadata = document.pop("__metadata__", {})
        data_bytes = _data_bytes(document)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _invalid_file(path, "its header cannot be read") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid_file(path, "its metadata is not a JSON object of texts")
    # a download that was cut off has a valid header and too few bytes
    expected_size = 8 + length + data_bytes
    if expected_size != size:
        raise _invalid_file(path, f"its header promises {expected_size} bytes, the file has {size}")
    return Header(document, metadata, 8 + length)


def _data_bytes(tensors: Mapping[str, Mapping[str, Any]]) -> int:
    """Bytes of all tensors' data, which lie one behind the other. Raises TypeError, ValueError or KeyError."""
    end_before = 0
    for start, end in sorted(_data_offsets(tensor) for tensor in tensors.values()):
        # as the library of the format demands: no gap, and no byte in two tensors
        if start != end_before or end < start:
            raise ValueError("a gap")
        end_before = end
    return end_before


def _data_offsets(tensor: Mapping[str, Any]) -> tuple[int, int]:
    """Where a tensor's data begin and end, after a check of its entry. Raises TypeError, ValueError or KeyError."""
    start, end = tensor["data_offsets"]
    numbers = (start, end, *tensor["shape"])
    if not isinstance(tensor["shape"], list) or not isinstance(tensor["dtype"], str):
        raise TypeError("no shape or dtype")
    for number in numbers:
        # in Python a bool is an int
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise TypeError("no size")
    return int(start), int(end)


def tensor_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Tensor name → shape in a safetensors file; cached until the file changes. Raises RecipeError as `read_header`."""
    return _tensor_shapes(path, path.stat().st_mtime_ns)


# changed is not read: it makes a changed file another entry of the cache
@cache
def _tensor_shapes(path: Path, changed: int) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor["shape"]) for name, tensor in read_header(path).tensors.items()}


def read_provenance(path: Path) -> dict[str, object]:
    """Provenance that dbrun wrote into an exported adapter. Raises RecipeError where there is none."""
    if folder_exists(path):
        raise RecipeError(f"{path} is a folder", fix=_suggest_file(path))
    if not path_exists(path):
        raise RecipeError(f"{path} is not there", fix=_suggest_file(path))
    text = read_header(path).metadata.get(METADATA_KEY)
    try:
        document = parse_json(text) if text else None
    except (ValueError, TypeError):
        document = None
    if not isinstance(document, dict):
        raise RecipeError(f"{path} holds no provenance of dbrun", fix="name a file that `dbrun run` exported")
    damage = find_damage(document)
    if damage is not None:
        raise RecipeError(f"{path} holds provenance that is damaged: {damage}", fix="export the adapter again")
    return document


def _suggest_file(path: Path) -> str:
    """Fix that names a file in the folder that the user gave, where the folder holds one."""
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*/*.safetensors"))
    if files:
        return f"name a file in it, such as {files[0]}"
    return "name an exported .safetensors file"


def find_record(path: Path, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Record (dbrun.json) of an exported file, from a folder above it; None where there is none of the same training.

    document: the file's provenance, from `read_provenance`.
    """
    for record in read_records(list(path.absolute().parents)[:MAX_PARENTS]):
        try:
            same_training = record["stages"]["train"]["digest"] == document["inputs"]["train"]
        except (KeyError, TypeError):
            continue
        # the nearest record decides: one further up describes another delivery
        return record if same_training else None
    return None


def read_records(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Records (dbrun.json) in these folders; a folder without a readable one is skipped."""
    for folder in folders:
        try:
            record = read_json(folder / RECORD_FILE)
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            yield record


def trigger_words(recipe: Mapping[str, Any]) -> str | None:
    """Words that name the subject in a prompt; None where they cannot be told.

    A learned token, or else the `trigger` of each subject, or where it has none the words of its instance prompt that
    are in no class prompt. recipe: as in the provenance.
    """
    for adapter in (recipe.get("adapt") or {}).values():
        if isinstance(adapter, Mapping) and "token" in adapter:
            return str(adapter["token"])
    subjects = recipe.get("subjects", [])
    if "subject" in recipe:
        subjects = [recipe["subject"]]
    found: list[str] = []
    for subject in subjects:
        if subject.get("trigger"):
            found.append(subject["trigger"])
            continue
        class_prompts = subject.get("class_prompt") or ()
        if isinstance(class_prompts, str):
            class_prompts = [class_prompts]
        class_words = " ".join(class_prompts).split()
        # without a class prompt every word of the instance prompt would count
        if class_words:
            instance_words = (subject.get("instance_prompt") or "").split()
            found += [word for word in instance_words if word not in class_words]
    return " ".join(dict.fromkeys(found)) or None


def _invalid_file(path: Path, why: str) -> RecipeError:
    if path.suffix != ".safetensors":
        return RecipeError(f"{path} is not a .safetensors file: {why}", fix="name one that a run exported")
    return RecipeError(f"{path} is not a complete safetensors file: {why}", fix="download or export the file again")
