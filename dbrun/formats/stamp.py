"""Changes to the header of a safetensors file: metadata and names; the tensors' bytes do not change."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dbrun.safetensors_header import METADATA_KEY, Header, read_header

MODEL_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
"""kohya's digests of a file; A1111 and its extensions find a file again by them."""
LEGACY_START, LEGACY_SIZE = 0x100000, 0x10000
"""Offset and number of the bytes that the older of these digests covers."""
ALIGNMENT = 8
"""Readers map the data into memory, so a header's length is a multiple of this."""


def write_metadata(path: Path, entries: Mapping[str, str], room: int = 0) -> None:
    """Set entries of the file's metadata. room: bytes to leave free in its header, for entries that are set later."""
    header = read_header(path)
    _write_header(path, header, header.tensors, {**header.metadata, **entries}, room)


def rename_tensors(path: Path, rename: Callable[[str], str]) -> None:
    """Rename the tensors of a file; their bytes and places stay."""
    header = read_header(path)
    _write_header(path, header, {rename(name): entry for name, entry in header.tensors.items()}, header.metadata)


def _write_header(path: Path, header: Header, tensors: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, str],
                  room: int = 0) -> None:
    """Write another header to a file. header: the one that it has; room: bytes to leave free."""
    # Sorted here, as safetensors' own writer promises no order: equal entries must give equal bytes.
    whole = {"__metadata__": dict(sorted(metadata.items())), **tensors}
    text = json.dumps(whole, separators=(",", ":"), ensure_ascii=True).encode()
    free = header.data_start - 8 - len(text)
    if room == 0 and free >= 0:
        # Spaces behind the header count for nothing, so gigabytes of tensors stay where they are.
        with path.open("r+b") as file:
            file.seek(8)
            file.write(text + b" " * free)
        return
    text += b" " * (room + -(len(text) + room) % ALIGNMENT)
    # Written next to the file, then renamed: a process that has mapped the old file keeps its whole tensors.
    new_file = path.with_suffix(".stamped")
    with path.open("rb") as old, new_file.open("wb") as new:
        old.seek(header.data_start)
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new)
    new_file.replace(path)


def write_provenance(path: Path, document: Mapping[str, object], shown: Mapping[str, str] | None = None,
                     room: int = 0) -> None:
    """Write the document into the file's metadata under `dbrun`. shown: further entries; room: as in `write_metadata`.
    """
    text = json.dumps(document, sort_keys=True, ensure_ascii=True)
    write_metadata(path, {**(shown or {}), METADATA_KEY: text}, room)


def data_digest(path: Path) -> str:
    """sha256 of all bytes behind the header, in hexadecimal: kohya's `sshs_model_hash`."""
    with path.open("rb") as file:
        file.seek(read_header(path).data_start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def legacy_digest(path: Path) -> str:
    """kohya's `sshs_legacy_hash`: 8 hexadecimal digits over 64 KiB behind the first MiB of the file.

    The file is taken as safetensors writes it with the `ss_…` entries alone, so that other entries do not count; a
    smaller file has the digest of nothing.
    """
    header = read_header(path)
    alone = _bare_header(header)
    digest = hashlib.sha256(alone[LEGACY_START:LEGACY_START + LEGACY_SIZE])
    data_offset = max(0, LEGACY_START - len(alone))
    covered = min(LEGACY_SIZE, max(0, LEGACY_START + LEGACY_SIZE - len(alone)))
    with path.open("rb") as file:
        file.seek(header.data_start + data_offset)
        digest.update(file.read(covered))
    return digest.hexdigest()[:8]


def _bare_header(header: Header) -> bytes:
    """Length and header as safetensors writes them with the `ss_…` entries alone; its order of entries is random."""
    trained = {key: value for key, value in header.metadata.items() if key.startswith("ss_")}
    document = {"__metadata__": trained, **header.tensors}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
