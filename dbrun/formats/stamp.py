"""Provenance in the header of an exported safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dbrun.safetensors_header import METADATA_KEY, read_header


def write_provenance(path: Path, document: Mapping[str, object]) -> None:
    """Write the document into the file's header metadata under `dbrun`; the tensors' bytes do not change."""
    header = read_header(path)
    data = path.read_bytes()[header.data_start:]
    metadata = {**header.metadata, METADATA_KEY: json.dumps(document, sort_keys=True, ensure_ascii=True)}
    # Sorted here, as safetensors' own writer promises no order: equal documents must give equal bytes.
    whole = {"__metadata__": dict(sorted(metadata.items())), **header.tensors}
    text = json.dumps(whole, separators=(",", ":"), ensure_ascii=True).encode()
    # Readers map the data into memory, which the format therefore aligns to 8 bytes.
    text += b" " * (-len(text) % 8)
    size = len(text).to_bytes(8, "little")
    # Written next to the file, then renamed: a process that has mapped the old file keeps its whole tensors.
    new_file = path.with_suffix(".stamped")
    new_file.write_bytes(size + text + data)
    new_file.replace(path)
