"""The items of a stage (a class image, an encoded picture), cached one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dbrun.store.atomic import disk_errors, disk_usage, remove_tree
from dbrun.store.canonical import JsonValue, digest, to_json_value
from dbrun.store.store import Damage, Store
from dbrun.store.traces import SHA256_HEX, Trace

ITEMS_FILE = "items"
"""The file in a stage's work folder that lists the keys of finished items, one a line."""
LINE_BYTES = 65
"""Bytes of a line of that file: 64 hex digits and a line feed."""


@dataclass
class DiskItemCache:
    """The cached items of one stage.

    common_key: the part that the keys of all items share; work: the stage's work folder;
    from_scratch: ignore stored items and remake them; warn: called with a warning for the user;
    check_inputs: raises if the files that an item was made from have changed since its key was computed.
    """

    store: Store
    stage: str
    common_key: Mapping[str, JsonValue]
    work: Path
    from_scratch: bool
    warn: Callable[[str], None]
    check_inputs: Callable[[], object]
    _folders: dict[str, Path] = field(default_factory=dict)
    _new_count: int = 0

    def get(self, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The read-only folder of the item with this key, made by `make(folder)` if it is not in the store."""
        document = self._key_document(key)
        name = digest(document)
        if name in self._folders:
            return self._folders[name]
        with self.store.shared_access():
            # Found and recorded under one shared access: no gc can take the item in between.
            cached = self._look_up(name)
            if isinstance(cached, Damage):
                self.warn(f"a damaged item is computed again: {cached.lines[0]}")
                self.store.objects.quarantine(cached.trace.digest)
            elif cached is not None:
                self._record(name)
        trace = cached if isinstance(cached, Trace) else self._make(name, document, make)
        self._folders[name] = self.store.objects.path(trace.digest)
        return self._folders[name]

    def share_left(self, keys: Iterable[Mapping[str, object]]) -> float:
        """The part of the items with these keys that is still to be made, 0 to 1; 1 if keys is empty."""
        cached = self.cached_by_key(keys)
        if not cached:
            return 1.0
        return 1.0 - sum(cached.values()) / len(cached)

    def cached_by_key(self, keys: Iterable[Mapping[str, object]]) -> Mapping[str, bool]:
        """The digest of each item key → whether the item is in the store and will be used."""
        names = {digest(self._key_document(key)) for key in keys}
        # Only whether a trace exists: this serves estimates, and `get` checks every byte.
        return {name: not self.from_scratch and self.store.traces.path(self._item_stage, name).is_file()
                for name in names}

    @property
    def new_count(self) -> int:
        """The number of items that this process made instead of finding them in the store."""
        return self._new_count

    @property
    def used_keys(self) -> frozenset[str]:
        """The digests of the keys that `get` was called with."""
        return frozenset(self._folders)

    def reuse_stored(self) -> None:
        """Use stored items from now on, even if the stage began from scratch."""
        self.from_scratch = False

    @property
    def bytes_on_disk(self) -> int:
        """Bytes on the disk of the unfinished work and its items."""
        total = disk_usage(self.work)
        for name in self._recorded:
            trace = self.store.traces.read(self._item_stage, name)
            if trace is not None:
                total += trace.total_bytes
        return total

    def _look_up(self, name: str) -> Trace | Damage | None:
        return None if self.from_scratch else self.store.look_up(self._item_stage, name, "bytes")

    def _make(self, name: str, document: dict[str, JsonValue], make: Callable[[Path], None]) -> Trace:
        folder = self.store.make_temp_folder()
        try:
            began = time.monotonic()
            make(folder)
            # After the work: only inputs that have not changed until now can have given this item.
            self.check_inputs()
            with self.store.shared_access():
                # Not durable: fsync for each of thousands of items is slow, and one lost in a power cut is remade.
                trace = self.store.publish(self._item_stage, name, document, folder, seconds=time.monotonic() - began,
                                           durable=False)
                self._record(name)
            self._new_count += 1
        finally:
            remove_tree(folder)
        return trace

    def _record(self, name: str) -> None:
        """List this item in the work folder, so that no gc takes it while the stage is unfinished."""
        if name in self._recorded:
            return
        with disk_errors("noting a finished item"), (self.work / ITEMS_FILE).open("ab") as file:
            # The line feed comes first: after a line that a full disk cut off, the next one is whole again.
            file.write(f"\n{name}".encode())
        self._recorded.add(name)

    @cached_property
    def _recorded(self) -> set[str]:
        return set(read_item_keys(self.work))

    @property
    def _item_stage(self) -> str:
        return f"{self.stage}.item"

    def _key_document(self, key: Mapping[str, object]) -> dict[str, JsonValue]:
        return {**self.common_key, "stage": self._item_stage, "item": to_json_value(key)}


def count_items(work: Path) -> int:
    """The number of items that unfinished work holds."""
    try:
        # From the size: a plan asks this for every stage, and reading thousands of lines takes time.
        return (work / ITEMS_FILE).stat().st_size // LINE_BYTES
    except OSError:
        return 0


def read_item_keys(work: Path) -> tuple[str, ...]:
    """The keys of the items that unfinished work holds; a line that is cut off is left out."""
    try:
        lines = (work / ITEMS_FILE).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line for line in lines if SHA256_HEX.fullmatch(line))
