"""Names of layers that programs look for, as exact sets in a form that people can read.

`names.json`: program -> `source`, `date`, and for each layout the names, in which a number stands apart:
`lora_unet_input_blocks_#_1_proj_in` -> the numbers for each `#`, such as [[4], [5]].
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "names.json"
NUMBER = re.compile(r"(?<=[_.])\d+(?=[_.]|$)")
DIFFUSERS_FILE = "comfyui, format diffusers"
"""Entry of names.json with the layers of transformers that ComfyUI looks for in such a file; block 0 stands for all."""


def folded(names: Iterable[str]) -> dict[str, list[list[int]]]:
    """Names by their pattern, with the numbers of each."""
    found: dict[str, list[list[int]]] = {}
    for name in names:
        numbers = [int(number) for number in NUMBER.findall(name)]
        found.setdefault(NUMBER.sub("#", name), []).append(numbers)
    return {pattern: sorted(numbers) for pattern, numbers in sorted(found.items())}


def unfolded(patterns: Mapping[str, list[list[int]]]) -> Iterator[str]:
    """Yield the names again."""
    for pattern, rows in patterns.items():
        for numbers in rows:
            name = pattern
            for number in numbers:
                name = name.replace("#", str(number), 1)
            yield name


def read_names() -> dict[str, dict[str, Any]]:
    """Program -> its entry of names.json, with the names of each layout as a set under `sd15`, `sdxl`."""
    listed = json.loads(FILE.read_text())
    for entry in listed.values():
        for layout in entry["layouts"]:
            entry[layout] = frozenset(unfolded(entry["layouts"][layout]))
    return listed


def write_names(program: str, source: str, date: str, layouts: Mapping[str, Iterable[str]]) -> None:
    """Put one program's names into names.json; the others stay."""
    listed = json.loads(FILE.read_text()) if FILE.exists() else {}
    listed[program] = {"source": source, "date": date,
                       "layouts": {layout: folded(names) for layout, names in layouts.items()}}
    # the numbers of one pattern on one line
    numbers = re.compile(r"\[\s*\[[\[\]\d,\s]*\]\s*\]")
    text = json.dumps(dict(sorted(listed.items())), indent=1)
    FILE.write_text(numbers.sub(lambda found: re.sub(r"\s+", "", found[0]), text) + "\n")
