"""How do the exported files come to stand in `outputs/<name>/`, complete or as they were?"""

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
from dbrun.safetensors_header import RECORD_FILE
from dbrun.store.atomic import disk_errors, is_orphan, remove_tree, temp_name
from dbrun.store.store import Store
from dbrun.store.traces import Trace, is_safe_name

FORMAT = 1


def deliver(traces: Mapping[str, Trace], target: Path, facts: Mapping[str, object], store: Store) -> bool:
    """Copy artifacts to target, with facts beside them in dbrun.json; whether anything had to be written.

    traces: the artifacts by the stages that made them. Raises StageFailed where two of them have a file of one name.
    facts: "recipe" and "stages" decide whether what stands there is current; the rest only describes. A folder
    that dbrun did not write is never touched; files that someone put beside the delivered ones stay.
    """
    _check_names(traces)
    files = {name: file.sha256 for trace in traces.values() for name, file in trace.files.items()}
    document = {"format_version": FORMAT, **facts, "files": files}
    with disk_errors(f"writing {target}"):
        old = _read_record(target)
        if old is not None and _is_current(old, document) and _is_intact(files, target, store):
            return False
        check_target(target)
        new = target.parent / f".{target.name}.new.{temp_name()}"
        try:
            _copy(traces, store, new, document)
            _swap(new, target)
        finally:
            remove_tree(new)
        _finish_killed(target)
    return True


def _check_names(traces: Mapping[str, Trace]) -> None:
    """Raise StageFailed where a file of one stage would stand in the place of another's, or of its folder."""
    owners = {RECORD_FILE: "dbrun itself"}
    for stage, trace in traces.items():
        for name in trace.files:
            taken = next((other for other in owners if _clash(name, other) and owners[other] != stage), None)
            if taken is not None:
                raise StageFailed(f"{stage} and {owners[taken]} both deliver {taken}, and one would replace the other",
                                  fix=f"let {stage} write its files under another name")
            owners[name] = stage


def _clash(name: str, other: str) -> bool:
    """Whether two names are one, or one is a folder of the other's path."""
    return name == other or name.startswith(f"{other}/") or other.startswith(f"{name}/")


def check_target(target: Path) -> None:
    """Raise StageFailed where nothing can be delivered to target; better known before hours of work than after."""
    with disk_errors(f"looking at {target}"):
        ours = _is_replaceable(target)
    if not ours:
        raise StageFailed(f"{target} is there and was not written by dbrun, so it is left alone",
                          fix="move it away, or give the recipe another `name`")
    home = next(folder for folder in target.parents if os.path.lexists(folder))
    if not home.is_dir():
        what = "is no folder" if home.exists() else "is a link that leads nowhere"
        raise StageFailed(f"{home} {what}, so {target} cannot be written", fix=f"move {home} away")
    if not os.access(home, os.W_OK | os.X_OK):
        raise StageFailed(f"{target} cannot be written: no permission to write into the folder {home.absolute()}",
                          fix="make it writable, or run dbrun in another folder")


def _is_replaceable(target: Path) -> bool:
    """Whether nothing stands at target, or an empty folder, or one that dbrun wrote.

    One folder is looked at, though another process may put a new one in its place meanwhile: then that one is.
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
            continue
        try:
            names, seen = {entry.name for entry in os.scandir(handle)}, os.fstat(handle)
        finally:
            os.close(handle)
        if not names or RECORD_FILE in names:
            return True
        try:
            now = target.stat()
        except FileNotFoundError:
            continue
        if (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino):
            return False


def _read_record(folder: Path) -> Mapping[str, object] | None:
    try:
        data = json.loads((folder / RECORD_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _is_current(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    return all(old.get(part) == new[part] for part in ("format_version", "recipe", "stages", "files"))


def _is_intact(files: Mapping[str, str], target: Path, store: Store) -> bool:
    """Whether the files, by name with their sha256, stand in target."""
    try:
        return all(store.digests.sha256(target / name) == sha256 for name, sha256 in files.items())
    except OSError:
        return False


def _copy(traces: Mapping[str, Trace], store: Store, folder: Path, document: Mapping[str, object]) -> None:
    import shutil

    folder.mkdir(parents=True)
    for trace in traces.values():
        source = store.objects.path(trace.digest)
        for name in trace.files:
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy)
            fsync_path(copy)
    record = folder / RECORD_FILE
    record.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fsync_path(record)
    fsync_path(folder)


def _swap(new: Path, target: Path) -> None:
    """Put new in target's place; what stood there steps aside until new stands.

    Where locks do not work another process may put its own there in between; then that one steps aside, too.
    """
    stepped: list[Path] = []
    while True:
        aside = target.parent / f".{target.name}.old.{temp_name()}"
        with suppress(FileNotFoundError):
            target.rename(aside)
            stepped.append(aside)
        try:
            new.rename(target)
            break
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            if stepped:
                stepped[-1].rename(target)
            raise
    fsync_path(target.parent)
    for old in stepped:
        _move_user_files(old, target)


def _finish_killed(target: Path) -> None:
    """Finish what deliveries to the same target left when they were killed."""
    for entry in list(target.parent.iterdir()):
        for kind in ("new", "old"):
            prefix = f".{target.name}.{kind}."
            if entry.name.startswith(prefix) and is_orphan(entry.name.removeprefix(prefix)):
                if kind == "old":
                    _move_user_files(entry, target)
                remove_tree(entry)


def _move_user_files(old: Path, target: Path) -> None:
    """Move what someone put beside the delivered files over to the new folder, then drop the old one."""
    record = _read_record(old) or {}
    listed = record.get("files")
    ours = {RECORD_FILE, *(listed if isinstance(listed, dict) else ())}
    for path in sorted(p for p in old.rglob("*") if not p.is_dir()):
        name = path.relative_to(old).as_posix()
        place = target / name
        if name not in ours and is_safe_name(name) and not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
    remove_tree(old)
