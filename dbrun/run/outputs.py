"""Delivery of exported files to `outputs/<name>/`: a crash leaves the old folder or the new one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbrun.errors import StageFailed
from dbrun.fsync import fsync_path
from dbrun.naming import PROGRESS_FILE, REPORT_FILE
from dbrun.run.user_files import UserFiles, read_record
from dbrun.safetensors_header import IN_PROGRESS, RECORD_FILE
from dbrun.stages.base import Stage
from dbrun.store.atomic import TEMP_NAME, disk_errors, is_orphan, list_dir, remove_tree, temp_name
from dbrun.store.store import Store
from dbrun.store.traces import Trace

FORMAT = 1
"""The `format_version` of `dbrun.json`."""
EXTRAS = (REPORT_FILE, PROGRESS_FILE)
"""Files of a delivery that are in no artifact."""
NEW, _OLD, _EMPTIED = "new", "old", "emptied"
"""Folders beside a delivered one: the next one, one that was moved aside, and one whose files are moved away."""
_TRIES, _PAUSE = 100, 0.01
"""How often, and after how many seconds each, files are carried over again where another process moves the folder."""


@dataclass(frozen=True)
class Delivery:
    """What is delivered. traces: stage → its artifact; stages: stage → the stage; run_name: of the recipe.

    extras: name of a file → what makes its bytes, or gives None where there is nothing to show; one that is left out
    is not delivered, and one that an earlier delivery wrote counts as current.
    """

    traces: Mapping[str, Trace]
    stages: Mapping[str, Stage[Any]]
    run_name: str
    extras: Mapping[str, Callable[[], bytes | None]] = field(default_factory=dict)

    def names(self, stage: str) -> Mapping[str, str]:
        """File of a stage's artifact → its name in the delivered folder."""
        return self.stages[stage].delivered_names(self.traces[stage].files, self.run_name)

    @property
    def all_names(self) -> set[str]:
        """Names of all delivered files."""
        return {name for stage in self.traces for name in self.names(stage).values()}

    @property
    def sorted_names(self) -> tuple[str, ...]:
        """Names of all delivered files, sorted."""
        return tuple(sorted(self.all_names))


def deliver(delivery: Delivery, target: Path, facts: Mapping[str, object], store: Store,
            note: Callable[[str], object]) -> bool:
    """Copy artifacts to target and write facts to its `dbrun.json`; return whether anything was written.

    Raises StageFailed if two stages deliver a file of the same name.
    facts: "recipe" and "stages" decide whether target is current; the other facts only describe it.
    A folder that dbrun did not write is never touched. What the user added or changed is kept: where the delivery has a
    file of the same name, it steps aside, and note is called with a sentence that names it.
    """
    _check_names(delivery)
    document = {"format_version": FORMAT, **facts}
    with disk_errors(f"writing {target}"):
        # First: a delivery that was killed may have been this one, and complete but for the user's files.
        finish_interrupted(target, store, note)
        place = real_target(target)
        old = read_record(place)
        # A current record is not enough: the user may have edited or deleted a delivered file since.
        if old is not None and _is_current(old, document, delivery) and _is_intact(old["files"], place, store):
            return False
        check_target(target)
        # Beside target, not in the store: only within one file system is a rename atomic.
        new = beside(place, NEW)
        try:
            _copy(delivery, store, new, document)
            moved_aside = _swap(new, place)
        finally:
            remove_tree(new)
        for folder in moved_aside:
            _carry_over(folder, target, store, note)
        # What had no delivery to return to before this one.
        finish_interrupted(target, store, note)
    return True


def real_target(target: Path) -> Path:
    """The folder that is delivered to: where target is a link, the folder that it leads to."""
    # Not `Path.resolve`, which raises for a link to itself.
    return Path(os.path.realpath(target)) if target.is_symlink() else target


@contextmanager
def lock_target(store: Store, target: Path, waiting: Callable[[str], None],
                stop_signal: Callable[[], int]) -> Iterator[None]:
    """Context manager: deliver to target alone, as far as the file system has locks.

    waiting: called once with the process that delivers there; stop_signal: returns a signal's number, or 0. Raises
    Interrupted if a signal arrives while waiting.
    """
    # Two recipes of one name deliver to one folder: the lock is the folder's, not the recipe's.
    folder = os.fsencode(real_target(target).absolute())
    place = hashlib.sha256(folder).hexdigest()[:32]
    with store.lock(f"deliver-{place}", f"delivering {target.name}", waiting, stop_signal):
        yield


def finish_interrupted(target: Path, store: Store, note: Callable[[str], object]) -> None:
    """Finish killed deliveries to target: the user's files return to it, and unfinished copies are removed.

    note: as in `deliver`. Raises StageFailed if the disk refuses.
    """
    unfinished, moved_aside = interrupted(target)
    with disk_errors(f"finishing an interrupted delivery to {target}"):
        for folder in unfinished:
            remove_tree(folder)
        for folder in moved_aside:
            _restore(folder, target, store, note)


def interrupted(target: Path) -> tuple[list[Path], list[Path]]:
    """Folders that killed deliveries to target left beside it: unfinished new ones, and replaced ones.

    Of the replaced ones those that may have to take target's name again come first.
    """
    place = real_target(target)
    unfinished: list[Path] = []
    replaced: dict[str, list[Path]] = {_OLD: [], _EMPTIED: []}
    for entry in list_dir(place.parent):
        kind, _, owner = entry.name.removeprefix(f".{place.name}.").partition(".")
        if not entry.name.startswith(f".{place.name}.") or not TEMP_NAME.fullmatch(owner):
            continue
        if kind == NEW and is_orphan(owner):
            unfinished.append(entry)
        # Whoever moved it aside, alive or not: a process id may be another's by now, and nothing is lost where two
        # processes move the same files.
        if kind in replaced and entry.is_dir() and not entry.is_symlink():
            replaced[kind].append(entry)
    return unfinished, replaced[_OLD] + replaced[_EMPTIED]


def beside(place: Path, kind: str) -> Path:
    """A new name beside a delivered folder. kind: what is there, by which `interrupted` finds it."""
    return place.parent / f".{place.name}.{kind}.{temp_name()}"


def _restore(old: Path, target: Path, store: Store, note: Callable[[str], object]) -> None:
    """Give a folder that was moved aside its name again, or, where the new one stands, carry the user's files over."""
    place = real_target(target)
    if read_record(place) is None:
        if _is_emptied(old, place):
            # Whatever replaced it is restored first.
            return
        try:
            # Only where nothing, or an empty folder, has the name.
            old.rename(place)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        note(f"an interrupted delivery left the folder {old}: the next run brings its files back once {target} is "
             "moved away")
        return
    moved = _carry_over(old, target, store, note)
    if moved:
        note(f"brought back after an interrupted delivery to {target}: {', '.join(moved.values())}")


def _is_emptied(old: Path, place: Path) -> bool:
    """Whether a folder that was moved aside is being emptied."""
    return old.name.startswith(f".{place.name}.{_EMPTIED}.")


def _carry_over(old: Path, target: Path, store: Store, note: Callable[[str], object]) -> Mapping[str, str]:
    """Move the user's files from old to target, remove old, and tell of those that have another name now.

    Returns all that moved: old name → new name.
    """
    place = real_target(target)
    if not _is_emptied(old, place):
        # From here on no other process may give it target's name again: it would be half a delivery.
        emptied = beside(place, _EMPTIED)
        try:
            old.rename(emptied)
        except FileNotFoundError:
            # Another process has given it target's name, or empties it.
            return {}
        old = emptied
    files = UserFiles(old, place, store.digests.sha256)
    for _ in range(_TRIES):
        try:
            files.carry_over()
            break
        except FileNotFoundError:
            # Another process finishes, and removes, the same folder, or has just moved target aside.
            if not old.exists():
                break
            time.sleep(_PAUSE)
    for name, now in files.moved.items():
        if name != now:
            note(f"{target / name} was your own file, or changed by you: it is now {target / now}")
    return files.moved


def _check_names(delivery: Delivery) -> None:
    """Raise StageFailed if two stages deliver the same file, or one a file and the other a folder of that name."""
    owners = dict.fromkeys((RECORD_FILE, *EXTRAS), "dbrun itself")
    for stage in delivery.traces:
        for name in delivery.names(stage).values():
            taken = next((other for other in owners if _clash(name, other) and owners[other] != stage), None)
            if taken is not None:
                raise StageFailed(f"{stage} and {owners[taken]} both deliver {taken}, and one would replace the other",
                                  fix=f"let {stage} write its files under another name")
            owners[name] = stage


def _clash(name: str, other: str) -> bool:
    """Whether two relative paths are equal, or one is a parent folder of the other."""
    return name == other or name.startswith(f"{other}/") or other.startswith(f"{name}/")


def check_target(target: Path) -> None:
    """Raise StageFailed if nothing can be delivered to target. Called before hours of work, not only after."""
    place = real_target(target)
    with disk_errors(f"looking at {target}"):
        # A killed delivery, which is finished before the next one, leaves such a link for a moment, too.
        leads_nowhere = target.is_symlink() and not target.exists() and not interrupted(target)[1]
        replaceable = _is_replaceable(place)
    if leads_nowhere:
        # The disk may not be mounted; a folder made in its place would be hidden by it later.
        raise StageFailed(f"{target} is a link to {place}, which is not there",
                          fix=f"mount or make {place}, or remove the link")
    if not replaceable:
        raise StageFailed(f"{target} already exists and was not written by dbrun, so it is left alone",
                          fix="move it away, or give the recipe another `name`")
    # lexists, not exists: a dangling link is in the way, too.
    home = next(folder for folder in place.parents if os.path.lexists(folder))
    if not home.is_dir():
        what = "is not a folder" if home.exists() else "is a link that leads nowhere"
        raise StageFailed(f"{home} {what}, so {target} cannot be written", fix=f"move {home} away")
    if not os.access(home, os.W_OK | os.X_OK):
        raise StageFailed(f"{target} cannot be written: no permission to write into the folder {home.absolute()}",
                          fix="make it writable, or run dbrun in another folder")


def _is_replaceable(target: Path) -> bool:
    """Whether target does not exist, is an empty folder, or is a folder that dbrun wrote.

    The answer is about one single folder: if another process swaps it meanwhile, look at the new one.
    """
    while True:
        try:
            handle = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            try:
                mode = target.lstat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                return True
            if not stat.S_ISDIR(mode):
                return False
            # A folder came into being between open and lstat.
            continue
        try:
            names = {entry.name for entry in os.scandir(handle)}
            opened = os.fstat(handle)
        finally:
            os.close(handle)
        if not names or RECORD_FILE in names:
            return True
        # A swap in progress empties the folder that is open here; "not ours" counts only if it still has the name.
        try:
            now = target.stat()
        except FileNotFoundError:
            continue
        if (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino):
            return False


def _is_current(old: Mapping[str, object], new: Mapping[str, object], delivery: Delivery) -> bool:
    """Whether a record is that of the same delivery. old, new: records; the new one does not list its files yet."""
    # Versions and machine are left out: running the same recipe elsewhere must not rewrite the folder.
    same_run = all(old.get(part) == new[part] for part in ("format_version", "recipe", "stages"))
    files = old.get("files")
    # The digests of the artifacts are in `stages`; of the copies, some of which have the run's name, only the old
    # record knows them.
    if not same_run or not isinstance(files, dict) or files.keys() - set(EXTRAS) != delivery.all_names:
        return False
    if IN_PROGRESS in old:
        # a training of another recipe has begun to show itself here, and was not finished
        return False
    # A folder of an earlier version has no report yet. One that is there is kept: it tells of the run that made the
    # files, and this run only found them.
    return REPORT_FILE in files or REPORT_FILE not in delivery.extras


def _is_intact(files: Any, target: Path, store: Store) -> bool:
    """Whether target holds these files with these contents. files: relative name → sha256, of a record."""
    try:
        return all(store.digests.sha256(target / name) == sha256 for name, sha256 in files.items())
    except OSError:
        return False


def _copy(delivery: Delivery, store: Store, folder: Path, document: Mapping[str, object]) -> None:
    """Copy the artifacts into a new folder, under the names and with the name of the run, and write the record."""
    # Imported here: most commands deliver nothing, and shutil brings compression libraries with it.
    import shutil

    folder.mkdir(parents=True)
    files: dict[str, str] = {}
    for stage, trace in delivery.traces.items():
        source, names = store.objects.path(trace.digest), delivery.names(stage)
        for file, entry in trace.files.items():
            copy = folder / names[file]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, copy)
            files[names[file]] = entry.sha256
            if delivery.stages[stage].write_run_name(copy, delivery.run_name, names):
                files[names[file]] = store.digests.sha256(copy)
            fsync_path(copy)
    for stage in delivery.traces:
        for name in delivery.stages[stage].complete_delivery(folder):
            files[name] = store.digests.sha256(folder / name)
            fsync_path(folder / name)
    for name, make in delivery.extras.items():
        content = make()
        if content is not None:
            extra = folder / name
            extra.write_bytes(content)
            files[name] = store.digests.sha256(extra)
            fsync_path(extra)
    # The record comes last, so that a folder that has one is complete.
    record = folder / RECORD_FILE
    record.write_text(json.dumps({**document, "files": files}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fsync_path(record)
    fsync_path(folder)


def _swap(new: Path, target: Path) -> list[Path]:
    """Rename new to target. The old folder is moved aside first; returns where it is now.

    On a file system without locks another process may put its own folder at target in between; it is moved aside, too.
    """
    moved_aside: list[Path] = []
    while True:
        aside = beside(target, _OLD)
        with suppress(FileNotFoundError):
            target.rename(aside)
            moved_aside.append(aside)
        try:
            new.rename(target)
            break
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            # Put the old folder back: never leave the user without outputs.
            if moved_aside:
                moved_aside[-1].rename(target)
            raise
    fsync_path(target.parent)
    return moved_aside
