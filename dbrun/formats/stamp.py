"""How does an exported file learn where it comes from?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dbrun.safetensors_header import METADATA_KEY, read_header


def write_provenance(path: Path, document: Mapping[str, object]) -> None:
    """Write the document into a safetensors file's header metadata, under `dbrun`; the tensors stay as they are.

    The metadata is sorted, which safetensors' own writer does not promise: equal documents give equal bytes.
    """
    found = read_header(path)
    data = path.read_bytes()[found.data_start:]
    metadata = {**found.metadata, METADATA_KEY: json.dumps(document, sort_keys=True, ensure_ascii=True)}
    whole = {"__metadata__": dict(sorted(metadata.items())), **found.tensors}
    text = json.dumps(whole, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    # beside it and renamed: tensors that a reader has mapped into memory stay whole
    beside = path.with_suffix(".stamped")
    beside.write_bytes(len(text).to_bytes(8, "little") + text + data)
    beside.replace(path)
