"""How does a stage find its single items (a class image, an encoded picture) again, one by one?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dbrun.store.atomic import disk_errors, remove, size
from dbrun.store.canonical import Plain, digest, plain
from dbrun.store.store import Damage, Store
from dbrun.store.traces import KEY, Trace

ITEMS = "items"
"""The file in a stage's work folder with a line for each item that is ready: its key."""
LINE = 65
"""Bytes of a line."""


@dataclass
class StoredItems:
    """The items of one stage. bound: what all their keys hold; anew: make all again.

    sound: raises where what an item was made from is no longer what its key says.
    """

    store: Store
    stage: str
    bound: Mapping[str, Plain]
    work: Path
    anew: bool
    warn: Callable[[str], None]
    sound: Callable[[], object]
    _made: dict[str, Path] = field(default_factory=dict)
    _new: int = 0

    def get(self, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The read-only folder of the item with this key; made by `make(folder)` if it is new."""
        document = self._document(key)
        name = digest(document)
        if name in self._made:
            return self._made[name]
        with self.store.using():
            found = self._standing(name)
            if isinstance(found, Damage):
                self.warn(f"a damaged item is made again: {found.lines[0]}")
                self.store.objects.quarantine(found.trace.digest)
            elif found is not None:
                self._note(name)
        if not isinstance(found, Trace):
            found = self._make(name, document, make)
        self._made[name] = self.store.objects.path(found.digest)
        return self._made[name]

    def left(self, keys: Iterable[Mapping[str, object]]) -> float:
        """Of the items with these keys, the part that is still to be made; 1 where there are none."""
        there = self.standing(keys)
        return 1.0 - sum(there.values()) / len(there) if there else 1.0

    def standing(self, keys: Iterable[Mapping[str, object]]) -> Mapping[str, bool]:
        """By the name of each item with these keys, whether it is there and need not be made."""
        names = {digest(self._document(key)) for key in keys}
        return {name: not self.anew and self.store.traces.path(self._kind, name).is_file() for name in names}

    @property
    def new(self) -> int:
        """How many of them were made here, and not found."""
        return self._new

    @property
    def used(self) -> frozenset[str]:
        """The keys of the items asked for so far."""
        return frozenset(self._made)

    def trust(self) -> None:
        """Count as made what stands in the store from now on, also where all was to be made again."""
        self.anew = False

    @property
    def held(self) -> int:
        """Bytes of the disk that unfinished work takes with its items."""
        found = [self.store.traces.read(self._kind, name) for name in self._noted]
        return size(self.work) + sum(file.size for trace in found if trace for file in trace.files.values())

    def _standing(self, name: str) -> Trace | Damage | None:
        return None if self.anew else self.store.look(self._kind, name, "bytes")

    def _make(self, name: str, document: dict[str, Plain], make: Callable[[Path], None]) -> Trace:
        folder = self.store.fresh()
        try:
            began = time.monotonic()
            make(folder)
            self.sound()
            with self.store.using():
                trace = self.store.publish(self._kind, name, document, folder, seconds=time.monotonic() - began,
                                           durable=False)
                self._note(name)
            self._new += 1
        finally:
            remove(folder)
        return trace

    def _note(self, name: str) -> None:
        """Note that unfinished work needs this item, so that no gc takes it."""
        if name in self._noted:
            return
        with disk_errors("noting a finished item"), (self.work / ITEMS).open("ab") as file:
            # the break comes first: after a line that a full disk cut off, the next one is whole again
            file.write(f"\n{name}".encode())
        self._noted.add(name)

    @cached_property
    def _noted(self) -> set[str]:
        return set(items_noted(self.work))

    @property
    def _kind(self) -> str:
        return f"{self.stage}.item"

    def _document(self, key: Mapping[str, object]) -> dict[str, Plain]:
        return {**self.bound, "stage": self._kind, "item": plain(key)}


def items_made(work: Path) -> int:
    """How many items unfinished work holds."""
    try:
        return (work / ITEMS).stat().st_size // LINE
    except OSError:
        return 0


def items_noted(work: Path) -> tuple[str, ...]:
    """The keys of the items that unfinished work holds."""
    try:
        lines = (work / ITEMS).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line for line in lines if KEY.fullmatch(line))
