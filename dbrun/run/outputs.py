"""Delivery of exported files to `outputs/<name>/`: a crash leaves the old folder or the new one."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dbrun.errors import StageFailed
from dbrun.fsync import fsync_path
from dbrun.input_file import read_json
from dbrun.safetensors_header import RECORD_FILE
from dbrun.store.atomic import disk_errors, is_orphan, remove_tree, temp_name
from dbrun.store.store import Store
from dbrun.store.traces import Trace, is_safe_name

FORMAT = 1
"""The `format_version` of `dbrun.json`."""


def deliver(traces: Mapping[str, Trace], target: Path, facts: Mapping[str, object], store: Store) -> bool:
    """Copy artifacts to target and write facts to its `dbrun.json`; return whether anything was written.

    traces: stage → its artifact. Raises StageFailed if two stages deliver a file of the same name.
    facts: "recipe" and "stages" decide whether target is current; the other facts only describe it.
    A folder that dbrun did not write is never touched; files that the user added to the delivered ones are kept.
    """
    _check_names(traces)
    files = {name: file.sha256 for trace in traces.values() for name, file in trace.files.items()}
    document = {"format_version": FORMAT, **facts, "files": files}
    with disk_errors(f"writing {target}"):
        old = _read_record(target)
        # A current record is not enough: the user may have edited or deleted a delivered file since.
        if old is not None and _is_current(old, document) and _is_intact(files, target, store):
            return False
        check_target(target)
        # Beside target, not in the store: only within one file system is a rename atomic.
        new = target.parent / f".{target.name}.new.{temp_name()}"
        try:
            _copy(traces, store, new, document)
            _swap(new, target)
        finally:
            remove_tree(new)
        _finish_killed(target)
    return True


def _check_names(traces: Mapping[str, Trace]) -> None:
    """Raise StageFailed if two stages deliver the same file, or one a file and the other a folder of that name."""
    owners = {RECORD_FILE: "dbrun itself"}
    for stage, trace in traces.items():
        for name in trace.files:
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
    with disk_errors(f"looking at {target}"):
        replaceable = _is_replaceable(target)
    if not replaceable:
        raise StageFailed(f"{target} already exists and was not written by dbrun, so it is left alone",
                          fix="move it away, or give the recipe another `name`")
    # lexists, not exists: a dangling link is in the way, too.
    home = next(folder for folder in target.parents if os.path.lexists(folder))
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


def _read_record(folder: Path) -> Mapping[str, object] | None:
    """The content of a delivered folder's `dbrun.json`; None if there is none, empty if it cannot be understood."""
    try:
        data = read_json(folder / RECORD_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # OSError: a folder or a named pipe of this name
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _is_current(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    # Versions and machine are left out: running the same recipe elsewhere must not rewrite the folder.
    return all(old.get(part) == new[part] for part in ("format_version", "recipe", "stages", "files"))


def _is_intact(files: Mapping[str, str], target: Path, store: Store) -> bool:
    """Whether target holds these files with these contents. files: relative name → sha256."""
    try:
        return all(store.digests.sha256(target / name) == sha256 for name, sha256 in files.items())
    except OSError:
        return False


def _copy(traces: Mapping[str, Trace], store: Store, folder: Path, document: Mapping[str, object]) -> None:
    # Imported here: most commands deliver nothing, and shutil brings compression libraries with it.
    import shutil

    folder.mkdir(parents=True)
    for trace in traces.values():
        source = store.objects.path(trace.digest)
        for name in trace.files:
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy)
            fsync_path(copy)
    # The record comes last, so that a folder that has one is complete.
    record = folder / RECORD_FILE
    record.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fsync_path(record)
    fsync_path(folder)


def _swap(new: Path, target: Path) -> None:
    """Rename new to target. The old folder is moved aside first, and deleted only once new has its name.

    On a file system without locks another process may put its own folder at target in between; it is moved aside, too.
    """
    moved_aside: list[Path] = []
    while True:
        aside = target.parent / f".{target.name}.old.{temp_name()}"
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
    for old in moved_aside:
        _move_user_files(old, target)


def _finish_killed(target: Path) -> None:
    """Clean up after killed deliveries to the same target; files that the user had added are moved to target."""
    for entry in list(target.parent.iterdir()):
        for kind in ("new", "old"):
            prefix = f".{target.name}.{kind}."
            if entry.name.startswith(prefix) and is_orphan(entry.name.removeprefix(prefix)):
                if kind == "old":
                    _move_user_files(entry, target)
                remove_tree(entry)


def _move_user_files(old: Path, target: Path) -> None:
    """Move files that the user added to the old folder into the new one, then delete the old folder."""
    record = _read_record(old) or {}
    delivered = {RECORD_FILE}
    listed = record.get("files")
    if isinstance(listed, dict):
        delivered.update(listed)
    for path in sorted(p for p in old.rglob("*") if not p.is_dir()):
        name = path.relative_to(old).as_posix()
        place = target / name
        # A file of the new delivery wins over the user's file of the same name.
        if name not in delivered and is_safe_name(name) and not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
    remove_tree(old)
