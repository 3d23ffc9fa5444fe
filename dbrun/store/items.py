"""How does a stage find its single items (a class image, an encoded picture) again, one by one?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.store.canonical import Plain, digest, plain
from dbrun.store.disk import disk_errors, remove
from dbrun.store.store import Damage, Store
from dbrun.store.traces import Trace

COUNT = "items"
"""The file in a stage's work folder with one byte for each item made."""


@dataclass(frozen=True)
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

    def get(self, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The read-only folder of the item with this key; made by `make(folder)` if it is new."""
        document = self._document(key)
        name = digest(document)
        if name in self._made:
            return self._made[name]
        found = self._standing(name)
        if isinstance(found, Damage):
            self.warn(f"a damaged item is made again: {found.lines[0]}")
            self.store.objects.quarantine(found.trace.digest)
        if not isinstance(found, Trace):
            found = self._make(name, document, make)
        self._made[name] = self.store.objects.path(found.digest)
        return self._made[name]

    def has(self, key: Mapping[str, object]) -> bool:
        """Whether the item is there already."""
        name = digest(self._document(key))
        return name in self._made or isinstance(self._standing(name), Trace)

    def _standing(self, name: str) -> Trace | Damage | None:
        return None if self.anew else self.store.look(self._kind, name, deep=True)

    def _make(self, name: str, document: dict[str, Plain], make: Callable[[Path], None]) -> Trace:
        folder = self.store.fresh()
        try:
            began = time.monotonic()
            make(folder)
            self.sound()
            trace = self.store.publish(self._kind, name, document, folder, seconds=time.monotonic() - began,
                                       durable=False)
        finally:
            remove(folder)
        with disk_errors("noting a finished item"), (self.work / COUNT).open("ab") as count:
            count.write(b".")
        return trace

    @property
    def _kind(self) -> str:
        return f"{self.stage}.item"

    def _document(self, key: Mapping[str, object]) -> dict[str, Plain]:
        return {**self.bound, "stage": self._kind, "item": plain(key)}


def items_made(work: Path) -> int:
    """How many items unfinished work holds."""
    try:
        return (work / COUNT).stat().st_size
    except OSError:
        return 0
