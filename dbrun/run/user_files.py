"""Files of the user in a delivered folder: they move from the replaced folder to the new one, and none is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from dbrun.fsync import fsync_path
from dbrun.input_file import read_json
from dbrun.safetensors_header import RECORD_FILE

KEPT = "-kept"
"""Mark in the new name of a file of the user that had to make room for a delivered one."""


def read_record(folder: Path) -> Mapping[str, object] | None:
    """The content of a delivered folder's `dbrun.json`; None if there is none, empty if it cannot be understood."""
    try:
        data = read_json(folder / RECORD_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # OSError: a folder or a named pipe of this name
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


@dataclass
class UserFiles:
    """What one carrying over moved.

    old: the folder that was replaced; target: the delivered one; sha256: digest of a file; moved: names that the user's
    files and folders had, relative to old → those that they have now, relative to target.
    """

    old: Path
    target: Path
    sha256: Callable[[Path], str]
    moved: dict[str, str] = field(default_factory=dict)

    def carry_over(self) -> None:
        """Move what dbrun did not deliver to target, then remove old. Raises OSError; a later call goes on from there.

        A delivered file that the user has changed is the user's. So is every link.
        """
        delivered = [read_record(folder) or {} for folder in (self.old, self.target)]
        superseded = list(self._carry("", delivered))
        fsync_path(self.target)
        # The record goes last: without it, what is left of the delivery would look like the user's.
        for path in (*superseded, self.old / RECORD_FILE):
            path.unlink(missing_ok=True)
        # Empty folders only: what came here meanwhile is found by the next delivery.
        for folder, _, _ in os.walk(self.old, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()

    def _carry(self, inside: str, delivered: list[Mapping[str, object]]) -> Iterator[Path]:
        """Move the user's entries of one folder; yield the files that dbrun had delivered.

        inside: the folder, relative to `old`, with a slash at its end; delivered: the two records.
        """
        with os.scandir(self.old / inside) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name, path = f"{inside}{entry.name}", Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if any(file.startswith(f"{name}/") for record in delivered for file in _recorded_files(record)):
                    yield from self._carry(f"{name}/", delivered)
                else:
                    self._move(path, name)
            elif entry.is_file(follow_symlinks=False) and (name == RECORD_FILE or self._is_one_of(name, delivered)):
                # The old record is needed until the end.
                if name != RECORD_FILE:
                    yield path
            else:
                self._move(path, name)

    def _is_one_of(self, name: str, delivered: list[Mapping[str, object]]) -> bool:
        """Whether a file of old is as it was delivered, or the same as the new one of its name."""
        digests = {digest for record in delivered for digest in known_digests(record, name)}
        # Most files of the user have a name of their own, and are not read.
        return bool(digests) and self.sha256(self.old / name) in digests

    def _move(self, path: Path, name: str) -> None:
        """Move one file, link or folder to its name in target, or to a free one beside it."""
        place = _free_place(self.target, name)
        # Never target itself: where another process has just moved it aside, half a delivery would have its name.
        for folder in reversed(place.relative_to(self.target).parents[:-1]):
            (self.target / folder).mkdir(exist_ok=True)
        # Another process that finishes the same delivery may have moved it already.
        with suppress(FileNotFoundError):
            path.rename(place)
            self.moved[name] = place.relative_to(self.target).as_posix()


def known_digests(record: Mapping[str, object], name: str) -> set[str]:
    """The digests that a delivered file may have by a record: its own, and that of one it was about to replace."""
    listed = (_recorded_files(record), _recorded_files(record, "replaced"))
    return {files[name] for files in listed if name in files}


def _recorded_files(record: Mapping[str, object], part: str = "files") -> Mapping[str, str]:
    """Relative name → sha256 of the files that a record says were delivered. part: the member of the record."""
    files = record.get(part)
    return files if isinstance(files, dict) else {}


def _free_place(target: Path, name: str) -> Path:
    """The path of `name` in target; of a part of it that is taken, the first free name beside."""
    *folders, last = name.split("/")
    home = target
    for folder in folders:
        home = next(path for path in _names_beside(home, folder) if path.is_dir() or not os.path.lexists(path))
    return next(path for path in _names_beside(home, last) if not os.path.lexists(path))


def _names_beside(home: Path, name: str) -> Iterator[Path]:
    """Yield `dog.png`, `dog-kept.png`, `dog-kept-2.png` …"""
    stem, suffix = Path(name).stem, Path(name).suffix
    yield home / name
    yield home / f"{stem}{KEPT}{suffix}"
    for number in count(2):
        yield home / f"{stem}{KEPT}-{number}{suffix}"
