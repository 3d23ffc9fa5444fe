"""Artifacts: finished, read-only folders of files, addressed by the digest of their contents."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dbrun.errors import StoreCorrupt
from dbrun.fsync import fsync_path
from dbrun.store.atomic import list_dir, remove_tree, temp_name, umask
from dbrun.store.traces import SHA256_HEX, ArtifactFile, manifest_digest


class Objects:
    """The folder of artifacts, `<first two of digest>/<digest>/`, and the quarantine for damaged ones."""

    def __init__(self, root: Path, quarantine: Path) -> None:
        self._root = root
        self._quarantine = quarantine

    def path(self, digest: str) -> Path:
        """The folder of the artifact with this digest; it need not exist. Raises ValueError if it is no digest."""
        # Digests come from files that may be damaged; this keeps them from naming a place outside the store.
        if not SHA256_HEX.fullmatch(digest):
            raise ValueError(f"not a digest: {digest}")
        return self._root / digest[:2] / digest

    def publish(self, folder: Path, *, durable: bool) -> tuple[str, Mapping[str, ArtifactFile]]:
        """Move a finished folder into the store; return its digest and files. durable: survive a power cut, too.

        File contents always reach the disk before the folder gets its name.
        Raises StoreCorrupt if a damaged artifact with the same digest cannot be replaced; OSError.
        """
        files = seal(folder)
        digest = manifest_digest(files)
        target = self.path(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            fsync_path(self._root)
        if durable:
            for inner in _walk_folders(folder):
                fsync_path(inner)
        # Several attempts: another process may put its own copy there, whole or damaged, between ours.
        for _ in range(5):
            if self._rename_into_place(folder, target, files):
                if durable:
                    fsync_path(target.parent)
                return digest, files
        raise StoreCorrupt(f"the artifact {target} is damaged and cannot be replaced",
                           fix=f"remove {target}, then run the same command again")

    def _rename_into_place(self, folder: Path, target: Path, files: Mapping[str, ArtifactFile]) -> bool:
        """Rename the folder to target, or drop it if target has the same bytes; False: try again."""
        try:
            folder.rename(target)
            return True
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        # The name promises these bytes, but the disk may have lost them since: read before trusting it.
        if not confirm_damage(target, files, sha256_of):
            remove_tree(folder)
            return True
        self.quarantine(target.name)
        return False

    def quarantine(self, digest: str) -> Path | None:
        """Move a damaged artifact to the quarantine; return its new place, None if it was already gone."""
        self._quarantine.mkdir(parents=True, exist_ok=True)
        aside = self._quarantine / f"{digest}.{temp_name()}"
        try:
            self.path(digest).rename(aside)
        except FileNotFoundError:
            return None
        return aside


def seal(folder: Path) -> dict[str, ArtifactFile]:
    """Hash every file of a folder, make it read-only and fsync it; return relative name → file.

    Raises ValueError for anything that is neither a file nor a folder; OSError.
    """
    files: dict[str, ArtifactFile] = {}
    # Set, not narrowed: some libraries write files that only their owner can read, and a store may be shared.
    mode = 0o444 & ~umask()
    for path in _walk_files(folder):
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            files[name] = ArtifactFile(os.fstat(file.fileno()).st_size, sha256)
    return files


def hash_files(folder: Path) -> dict[str, ArtifactFile]:
    """Relative name → size and digest of every file in a folder, as the disk has them now.

    Raises OSError; ValueError for anything that is neither a file nor a folder.
    """
    return {path.relative_to(folder).as_posix(): ArtifactFile(path.stat().st_size, sha256_of(path))
            for path in _walk_files(folder)}


def find_damage(folder: Path, files: Mapping[str, ArtifactFile],
                sha256: Callable[[Path], str] | None = None) -> list[str]:
    """Lines that say what is wrong with an artifact: missing files, wrong sizes, and, given sha256, wrong bytes.

    files: what was written; sha256: computes a file's digest, None to check sizes only.
    """
    # Files that were added are not looked for: nothing reads them, and the digest is of the listed ones.
    found: list[str] = []
    for name, file in files.items():
        path = folder / name
        try:
            state = path.stat(follow_symlinks=False)
            if not stat.S_ISREG(state.st_mode):
                found.append(f"{name} is no longer a plain file")
            elif state.st_size != file.size:
                found.append(f"{name} has {state.st_size} bytes instead of {file.size}")
            elif sha256 is not None and sha256(path) != file.sha256:
                found.append(f"{name} has other bytes than were written")
        except (FileNotFoundError, NotADirectoryError):
            found.append(f"{name} is missing")
        except OSError as error:
            found.append(f"{name} cannot be read: {error.strerror}")
    if not files and not folder.is_dir():
        found.append("the folder is missing")
    return found


def confirm_damage(folder: Path, files: Mapping[str, ArtifactFile],
                   sha256: Callable[[Path], str] | None = None) -> list[str]:
    """What `find_damage` finds twice: the second look comes after the artifact's folders were opened anew.

    A network file system remembers for seconds that a name was not there. Opening a folder makes it ask the server, so
    a result that another machine has just published is not taken for a damaged one.
    """
    if not find_damage(folder, files, sha256):
        return []
    for path in (folder.parent.parent, folder.parent, folder):
        list_dir(path)
    return find_damage(folder, files, sha256)


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes as 64 hex digits, read now and never cached. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _walk_files(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)
        else:
            raise ValueError(f"{entry.name} in an artifact is neither a file nor a folder")


def _walk_folders(folder: Path) -> Iterator[Path]:
    yield folder
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_folders(Path(entry.path))
