"""The second level of the store: results and checkpoints that several machines share, below a URL.

Layout:

    objects/<first two>/<sha256>                       a file of an artifact, by its content; equal files are one
    traces/<stage>/<key>.json                          the trace of a result, the same bytes as in a local store
    traces/<stage>.item/<first two>/<key>.json         that of an item, such as a class image
    work/<resume key>/step-<n>.<sha256>.safetensors    the newest checkpoint of an unfinished stage

A trace is written after all files that it names, and is the only mark of a result, as on a disk. The first one stays.
Nothing here is trusted: a trace has a checksum, and each file and checkpoint is compared with its digest on arrival. So
every failure of the server, and every byte that it loses, is a miss: the run computes what it did not get.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from dbrun.disk_space import format_bytes
from dbrun.fsync import fsync_path
from dbrun.naming import CHECKPOINT_NAME, usable_step
from dbrun.secrets import redact_secrets
from dbrun.store.atomic import list_dir
from dbrun.store.objects import sha256_of
from dbrun.store.remote_files import DamagedFile, RemoteError, RemoteFile, RemoteFiles, RemoteMissing
from dbrun.store.traces import SHA256_HEX, ArtifactFile, Trace, dump_trace, parse_trace, trace_name

T = TypeVar("T")
Mode = Literal["rw", "ro", "off"]
"""rw: results and checkpoints are also written; ro: only read; off: the remote store is not used."""
Tell = Callable[[str, str, str], None]
"""Listener for messages: the stage, the text and its level, `info` or `warning`."""

MAX_TRACE_BYTES = 64 * 2**20
"""Largest trace in bytes; one of 100,000 files takes a quarter of it."""
MAX_FAILURES = 3
"""Failures in a row after which the remote store is left alone for a while."""
PAUSE_SECONDS = 300.0
"""Seconds for which a remote store that failed is left alone: hours later it may be back."""
MISS_SECONDS = 10.0
"""Seconds for which a miss is remembered; a run looks up each stage several times."""
REFRESH_SECONDS = 24 * 3600.0
"""Age in seconds from which something is written again when it is used: a gc goes by these times, see remote_upkeep."""


class RemoteStore:
    """A remote store. is_connected: whether a run uses it; other commands only read traces."""

    def __init__(self, url: str, mode: Mode) -> None:
        self.url = url
        self.mode = mode
        self.is_connected = False
        self.warning: str | None = None
        """What went wrong first, None if nothing did."""
        self._listener: Tell = lambda stage, text, level: None
        self._stop_signal: Callable[[], int] = lambda: 0
        self._failures = 0
        self._closed_until = 0.0
        self._traces: dict[tuple[str, str], Trace] = {}
        self._missed: dict[tuple[str, str], float] = {}
        self._unusable: set[tuple[str, str]] = set()
        self._damaged: set[str] = set()

    def connect(self, tell: Tell, stop_signal: Callable[[], int]) -> None:
        """Use the remote store for a run: fetch results, and in mode rw publish new ones.

        tell: gets messages; stop_signal: the number of a signal that ends downloads, or 0.
        """
        self.is_connected = True
        self.listen(tell)
        self._stop_signal = stop_signal

    def listen(self, tell: Tell) -> None:
        """Send messages to this listener. A command that only reads does no more."""
        self._listener = tell

    def tell(self, stage: str, text: str, level: str) -> None:
        """Pass a message on to the run. stage: items count as their stage; level: `info` or `warning`."""
        self._listener(stage.removesuffix(".item"), text, level)

    @cached_property
    def files(self) -> RemoteFiles:
        """The files below the URL; the client is imported at the first use. Raises RemoteError."""
        try:
            return RemoteFiles(self.url, lambda: self._stop_signal())
        # clients read settings of their own, each with exceptions of its own
        except Exception as error:
            raise RemoteError(f"its client cannot be started: {type(error).__name__}") from error

    @property
    def writes(self) -> bool:
        """Whether this run writes into the remote store."""
        return self.is_connected and self.mode == "rw"

    def read_trace(self, stage: str, key: str) -> Trace | None:
        """The trace under this key; None if there is none, if it is damaged, or if the server does not give it."""
        known = stage, key
        if known in self._traces:
            return self._traces[known]
        if time.monotonic() - self._missed.get(known, -MISS_SECONDS) < MISS_SECONDS:
            return None
        trace = self._attempt(stage, lambda: self._read_trace(stage, key), None)
        if trace is None:
            self._missed[known] = time.monotonic()
        else:
            # kept: what a plan was made with must not be gone a moment later, when the server is
            self._traces[known] = trace
        return trace

    def download(self, trace: Trace, folder: Path) -> bool:
        """Fetch the files of a result into an empty folder; False if one is missing or damaged."""
        arrived = self._attempt(trace.stage, lambda: self._download(trace, folder), False)
        if not arrived:
            self._traces.pop((trace.stage, trace.key), None)
            self._missed[trace.stage, trace.key] = time.monotonic()
        elif not trace.stage.endswith(".item"):
            size = format_bytes(trace.total_bytes)
            self.tell(trace.stage, f"taken from the remote store ({size})", "info")
        return arrived

    def publish(self, trace: Trace, folder: Path, *, is_new: bool) -> None:
        """Write a result, unless there is one of its key: first its files, then its trace.

        folder: of its files; is_new: this run has just computed it, so that a difference is worth telling.
        """
        if self.writes and self._traces.get((trace.stage, trace.key)) != trace:
            self._attempt(trace.stage, lambda: self._publish(trace, folder, is_new), None)

    def save_checkpoint(self, stage: str, resume_key: str, path: Path) -> bool:
        """Write a checkpoint, then remove those of earlier steps; return whether it was written."""
        return self.writes and self._attempt(stage, lambda: self._save_checkpoint(resume_key, path), False)

    def fetch_checkpoint(self, stage: str, resume_key: str, work: Path, scratch: Path, last_step: int | None) -> bool:
        """Fetch the newest intact checkpoint of at most last_step steps, if it is newer than those in the work folder.

        Returns whether one was. scratch: a file to write first, on the file system of the work folder.
        """
        return self.is_connected and self._attempt(
            stage, lambda: self._fetch_checkpoint(stage, resume_key, work, scratch, last_step), False)

    def remove_checkpoints(self, trace: Trace, resume_key: str, last_step: int | None) -> None:
        """Remove the checkpoints of a stage whose result stands there; those of a longer run, beyond last_step, stay.
        """
        def remove() -> None:
            self.files.remove([file.name for _, file in self._checkpoints(resume_key, last_step)])

        if self.writes and (trace.stage, trace.key) in self._traces:
            self._attempt(trace.stage, remove, None)

    def _attempt(self, stage: str, call: Callable[[], T], otherwise: T) -> T:
        """What the call returns, or `otherwise` if it fails; the first failure is told, and a dead server is let be."""
        if time.monotonic() < self._closed_until:
            return otherwise
        try:
            value = call()
        except RemoteMissing:
            return otherwise
        except RemoteError as error:
            self._failed(stage, error)
            return otherwise
        # a trace with a digest that is none; a full disk here, which the stage itself will tell of
        except (OSError, ValueError) as error:
            self._failed(stage, RemoteError(f"{type(error).__name__}: {redact_secrets(str(error))}"))
            return otherwise
        self._failures = 0
        return value

    def _failed(self, stage: str, error: RemoteError) -> None:
        if not isinstance(error, DamagedFile):
            self._failures += 1
        if error.is_unreachable or self._failures >= MAX_FAILURES:
            self._closed_until = time.monotonic() + PAUSE_SECONDS
            self._failures = 0
        if self.warning is None:
            self.warning = f"the remote store failed: {error}; what it lacks is computed here"
            self.tell(stage, self.warning, "warning")

    def _read_trace(self, stage: str, key: str) -> Trace | None:
        name = f"traces/{trace_name(stage, key)}"
        data = self.files.read([name], MAX_TRACE_BYTES)[0]
        if data is None:
            return None
        trace = parse_trace(data, stage, key)
        if trace is None:
            raise DamagedFile(f"{name} is damaged")
        # a result in use must not grow old, or a gc would take it
        if self.writes and time.time() - _created(trace) > REFRESH_SECONDS:
            written = self.files.look([name])[0]
            if written is not None and _is_old(written):
                self.files.write(name, data)
        return trace

    def _download(self, trace: Trace, folder: Path) -> bool:
        wanted = []
        for name, file in trace.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            wanted.append((object_name(file), path, file.size))
        try:
            self.files.download(wanted)
            for name, file in trace.files.items():
                if sha256_of(folder / name) != file.sha256:
                    self._damaged.add(file.sha256)
                    raise DamagedFile(f"{object_name(file)} is damaged")
        except (RemoteMissing, DamagedFile):
            # no result, then: the one that is computed instead takes its place
            self._unusable.add((trace.stage, trace.key))
            raise
        return True

    def _publish(self, trace: Trace, folder: Path, is_new: bool) -> None:
        try:
            standing = self._read_trace(trace.stage, trace.key)
        except DamagedFile:
            # replaced, since nobody can use it
            standing = None
        known = trace.stage, trace.key
        if standing is not None and known not in self._unusable:
            self._traces[known] = standing
            if is_new and standing.digest != trace.digest:
                self.tell(trace.stage, "the remote store has another result of the same key, which came first and "
                          "stays: two machines computed different bytes", "info")
            return
        # by content: an artifact may hold a file twice
        by_name = {object_name(file): (folder / name, file) for name, file in trace.files.items()}
        there = self.files.look(list(by_name))
        missing = [(path, name, file.size) for (name, (path, file)), found in zip(by_name.items(), there, strict=True)
                   if not self._stands(file, found)]
        self.files.upload(missing)
        self.files.write(f"traces/{trace_name(*known)}", dump_trace(trace))
        self._traces[known] = trace
        self._unusable.discard(known)
        self._damaged.difference_update(file.sha256 for file in trace.files.values())

    def _stands(self, file: ArtifactFile, found: RemoteFile | None) -> bool:
        """Whether a file need not be written. An old one is: a gc that goes on now may see nobody use it."""
        if found is None or found.size != file.size or file.sha256 in self._damaged:
            return False
        return not _is_old(found)

    def _checkpoints(self, resume_key: str, last_step: int | None) -> Iterator[tuple[int, RemoteFile]]:
        """The step and file of each checkpoint of at most last_step steps, the newest first."""
        found = []
        for file in self.files.find(_work_folder(resume_key)):
            step = usable_step(file.name.rpartition("/")[2], last_step)
            if step is not None:
                found.append((step, file))
        yield from sorted(found, key=lambda entry: -entry[0])

    def _save_checkpoint(self, resume_key: str, path: Path) -> bool:
        match = CHECKPOINT_NAME.fullmatch(path.name)
        assert match, f"{path.name} is a checkpoint"
        name = f"{_work_folder(resume_key)}/{path.name}"
        self.files.upload([(path, name, path.stat().st_size)])
        # only now: until the new one stands, the older ones are what another machine would go on from
        earlier = self._checkpoints(resume_key, int(match["step"]))
        self.files.remove([file.name for _, file in earlier if file.name != name])
        return True

    def _fetch_checkpoint(self, stage: str, resume_key: str, work: Path, scratch: Path,
                          last_step: int | None) -> bool:
        here = [usable_step(path.name, last_step) for path in list_dir(work / "checkpoints")]
        newest = max((step for step in here if step is not None), default=0)
        for step, file in self._checkpoints(resume_key, last_step):
            if step <= newest:
                return False
            path = work / "checkpoints" / file.name.rpartition("/")[2]
            try:
                self.files.download([(file.name, scratch, file.size)])
                match = CHECKPOINT_NAME.fullmatch(path.name)
                if match and sha256_of(scratch) == match["digest"]:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    fsync_path(scratch)
                    scratch.replace(path)
                    self.tell(stage, f"taken over at step {step}, from the remote store", "info")
                    return True
            # listed a moment ago, and removed since then
            except RemoteMissing:
                continue
            finally:
                scratch.unlink(missing_ok=True)
        return False


def object_name(file: ArtifactFile) -> str:
    """The name of an artifact's file, by its content. Raises ValueError if its digest is malformed."""
    if not SHA256_HEX.fullmatch(file.sha256):
        raise ValueError(f"not a digest: {file.sha256}")
    return f"objects/{file.sha256[:2]}/{file.sha256}"


def _work_folder(resume_key: str) -> str:
    return f"work/{resume_key}"


def _is_old(file: RemoteFile) -> bool:
    return file.written is not None and time.time() - file.written > REFRESH_SECONDS


def _created(trace: Trace) -> float:
    """When a trace was made, in seconds since 1970; 0 if it does not say."""
    try:
        return float(calendar.timegm(time.strptime(trace.created, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return 0.0
