"""Files that transformers 4 reads, too: A1111, Forge, sd-scripts and diffusers 0.35 are pinned to it.

transformers 5.6 dropped `text_model.` from the names of CLIP's layers and reads files of both namings; earlier versions
leave a text encoder without it at random weights, with a warning at most.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.formats.stamp import rename_tensors
from dbrun.input_file import file_exists, read_json
from dbrun.models.base import Family, families

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER_FILE = "tokenizer.json"
MERGES_HEADER = "#version: 0.2"
"""First line of merges.txt, which readers skip."""


def write_older_names(folder: Path, family: Family, name: str) -> None:
    """Rename the tensors of a component's saved weights. folder: its own; name: in model_index.json."""
    prefix = family.older_prefixes.get(name, "")

    def rename(tensor: str) -> str:
        return prefix + tensor.removeprefix(prefix)

    for path in folder.glob("*.safetensors"):
        if prefix:
            rename_tensors(path, rename)


def write_older_tokenizer(folder: Path) -> None:
    """Write the vocab.json and merges.txt of a tokenizer that transformers 5 saved as one file."""
    if not file_exists(folder / TOKENIZER_FILE):
        return
    model = read_json(folder / TOKENIZER_FILE)["model"]
    # Only byte-pair encodings have merges; sentencepiece's tokenizers have a file of their own.
    if model.get("type") != "BPE":
        return
    lines = [MERGES_HEADER]
    for merge in model["merges"]:
        # A pair in newer files, one text in older ones.
        lines.append(merge if isinstance(merge, str) else " ".join(merge))
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def with_older_names(state: Mapping[str, Tensor], family: Family, component: str) -> dict[str, Tensor]:
    """Weights of a PEFT adapter under the names of old and new transformers; peft translates neither into the other.

    peft takes the names that the module has, and silently ignores the others.
    """
    both = dict(state)
    prefix = family.older_prefixes.get(family.components[component])
    if prefix is not None:
        # Copies, since safetensors refuses tensors that share memory.
        both |= {prefix + name.removeprefix(prefix): tensor.clone() for name, tensor in state.items()}
    return both


def without_twins(names: Iterable[str]) -> list[str]:
    """Names of a file's tensors without those that repeat another one under its older name."""
    known = dict.fromkeys(names)
    prefixes = {prefix for family in families().values() for prefix in family.older_prefixes.values()}
    twins = {name for name in known for prefix in prefixes
             if prefix in name and name.replace(prefix, "", 1) in known}
    return [name for name in known if name not in twins]
