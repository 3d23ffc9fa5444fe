"""How does a stage find its single items (a class image, an encoded picture) again, one by one?"""

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
"""The file in a stage's work folder with a line for each item that is ready: its key."""
LINE_BYTES = 65
"""Bytes of a line."""


@dataclass
class DiskItemCache:
    """The items of one stage. common_key: what all their keys hold; from_scratch: make all again.

    check_inputs: raises where what an item was made from is no longer what its key says.
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
        """The read-only folder of the item with this key; made by `make(folder)` if it is new."""
        document = self._key_document(key)
        name = digest(document)
        if name in self._folders:
            return self._folders[name]
        with self.store.shared_access():
            found = self._look_up(name)
            if isinstance(found, Damage):
                self.warn(f"a damaged item is made again: {found.lines[0]}")
                self.store.objects.quarantine(found.trace.digest)
            elif found is not None:
                self._record(name)
        if not isinstance(found, Trace):
            found = self._make(name, document, make)
        self._folders[name] = self.store.objects.path(found.digest)
        return self._folders[name]

    def share_left(self, keys: Iterable[Mapping[str, object]]) -> float:
        """Of the items with these keys, the part that is still to be made; 1 where there are none."""
        there = self.cached_by_key(keys)
        return 1.0 - sum(there.values()) / len(there) if there else 1.0

    def cached_by_key(self, keys: Iterable[Mapping[str, object]]) -> Mapping[str, bool]:
        """By the name of each item with these keys, whether it is there and need not be made."""
        names = {digest(self._key_document(key)) for key in keys}
        return {name: not self.from_scratch and self.store.traces.path(self._item_stage, name).is_file()
                for name in names}

    @property
    def new_count(self) -> int:
        """How many of them were made here, and not found."""
        return self._new_count

    @property
    def used_keys(self) -> frozenset[str]:
        """The keys of the items asked for so far."""
        return frozenset(self._folders)

    def reuse_stored(self) -> None:
        """Count as made what stands in the store from now on, also where all was to be made again."""
        self.from_scratch = False

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the disk that unfinished work takes with its items."""
        found = [self.store.traces.read(self._item_stage, name) for name in self._recorded]
        return disk_usage(self.work) + sum(file.size for trace in found if trace for file in trace.files.values())

    def _look_up(self, name: str) -> Trace | Damage | None:
        return None if self.from_scratch else self.store.look_up(self._item_stage, name, "bytes")

    def _make(self, name: str, document: dict[str, JsonValue], make: Callable[[Path], None]) -> Trace:
        folder = self.store.make_temp_folder()
        try:
            began = time.monotonic()
            make(folder)
            self.check_inputs()
            with self.store.shared_access():
                trace = self.store.publish(self._item_stage, name, document, folder, seconds=time.monotonic() - began,
                                           durable=False)
                self._record(name)
            self._new_count += 1
        finally:
            remove_tree(folder)
        return trace

    def _record(self, name: str) -> None:
        """Note that unfinished work needs this item, so that no gc takes it."""
        if name in self._recorded:
            return
        with disk_errors("noting a finished item"), (self.work / ITEMS_FILE).open("ab") as file:
            # the break comes first: after a line that a full disk cut off, the next one is whole again
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
    """How many items unfinished work holds."""
    try:
        return (work / ITEMS_FILE).stat().st_size // LINE_BYTES
    except OSError:
        return 0


def read_item_keys(work: Path) -> tuple[str, ...]:
    """The keys of the items that unfinished work holds."""
    try:
        lines = (work / ITEMS_FILE).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line for line in lines if SHA256_HEX.fullmatch(line))
