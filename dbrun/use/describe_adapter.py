"""What an adapter's file is, told by its header: type, rank, layers, base, trigger, and the programs that load it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dbrun.errors import DbrunError, UsageError
from dbrun.formats.adapter_header import read_adapter_header
from dbrun.formats.base import Format
from dbrun.formats.base_kind import adapter_base_kind, is_for_transformer
from dbrun.formats.embedding import words_in
from dbrun.input_file import parse_json
from dbrun.safetensors_header import read_header
from dbrun.use.adapter_files import check_no_base, check_no_pickle, find_adapter

COMPONENTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^(lora_te2_|text_encoder_2\.)"), "text_encoder_2"),
    (re.compile(r"^(lora_te\d?_|text_encoder\.)|^base_model\.model\.(text_model\.)?encoder\."), "text_encoder"),
    (re.compile(r""), "denoiser"))
"""Beginning of a layer's name → the component that it belongs to; the first counts."""
UNKNOWN = "unknown"
"""Type of an adapter whose tensors have the names of no type that dbrun knows."""
MAX_TAGS = 5
"""Number of tags of another trainer's file that are shown."""


def describe_adapter(place: Path) -> dict[str, object]:
    """Facts on the adapter in a file or folder, in the order in which they are shown; no weights are read.

    Raises UsageError for a pickle, a whole base and what is no adapter, RecipeError for a damaged file.
    """
    check_no_pickle(place)
    check_no_base(place)
    form, files = _find(place)
    weights = [paths[-1] for paths in files]
    headers = [read_adapter_header(path) for path in weights]
    types = sorted({kind for header in headers for kind in header.types})
    layers = Counter(_component(layer, path) for header, path in zip(headers, weights, strict=True)
                     for layer in header.layers)
    words = [word for path in weights for word in words_in(path)]
    facts: dict[str, object] = {}
    if types:
        facts["type"] = ", ".join(types)
    elif words:
        facts |= {"type": "embedding", "word": ", ".join(words)}
    elif form is None or not form.LARGE:
        facts["type"] = UNKNOWN
    ranks = sorted({rank for header in headers for rank in header.ranks})
    alphas = sorted({alpha for header in headers for alpha in header.alphas})
    facts |= {"rank": _span(ranks), "alpha": _span(alphas)}
    if layers:
        facts["layers"] = ", ".join(f"{count} of the {component}" for component, count in sorted(layers.items()))
    metadata: dict[str, str] = {}
    for path in weights:
        metadata |= read_header(path).metadata
    facts |= {"base": _base(weights, metadata), "trigger": _trigger(metadata)}
    if form is None or facts.get("type") == UNKNOWN:
        facts["loads in"] = "no program that dbrun knows"
    else:
        facts["loads in"] = form.loads_in(transformer=is_for_transformer(weights))
    return {key: value for key, value in facts.items() if value is not None}


def _find(place: Path) -> tuple[Format | None, tuple[tuple[Path, ...], ...]]:
    """The format and the files of an adapter; (None, the file) for a safetensors file of no known format."""
    try:
        found = find_adapter(str(place))
    except UsageError:
        if place.suffix != ".safetensors":
            raise
        # Raises for a damaged file.
        read_header(place)
        return None, ((place,),)
    return found.form, found.files


def _component(layer: str, path: Path) -> str:
    # A folder of PEFT's is named after its component.
    if path.parent.name in {name for _, name in COMPONENTS}:
        return path.parent.name
    return next(name for pattern, name in COMPONENTS if pattern.search(layer))


def _span(numbers: Sequence[float]) -> str | None:
    if not numbers:
        return None
    if len(numbers) == 1:
        return f"{numbers[0]:g}"
    return f"{numbers[0]:g} to {numbers[-1]:g}"


def _base(weights: Sequence[Path], metadata: Mapping[str, str]) -> str | None:
    """Kind of base, and the name that its trainer recorded."""
    try:
        kind = adapter_base_kind(weights)
    except DbrunError:
        kind = None
    recorded = metadata.get("ss_sd_model_name")
    known = [text for text in (kind, recorded) if text and text != "None"]
    return ", ".join(known) or None


def _trigger(metadata: Mapping[str, str]) -> str | None:
    """The trigger that a trainer recorded, or else the most frequent tags of the pictures."""
    if "modelspec.trigger_phrase" in metadata:
        return metadata["modelspec.trigger_phrase"]
    try:
        by_folder: Any = parse_json(metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in by_folder.values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError):
        return None
    return ", ".join(tag for tag, _ in counts.most_common(MAX_TAGS)) or None
