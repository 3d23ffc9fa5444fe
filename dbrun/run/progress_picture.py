"""progress.png: the previews of a training as one picture, in the delivered folder while it trains and after it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from dbrun.errors import Interrupted
from dbrun.events import Emit, Event, Note, StageFinished
from dbrun.fsync import fsync_path
from dbrun.images.grid import COMPRESS_LEVEL
from dbrun.images.previews import draw_strip, preview_files
from dbrun.naming import PROGRESS_FILE
from dbrun.run.outputs import FORMAT, NEW, beside, lock_target, real_target
from dbrun.run.training_previews import PREVIEWS_FOLDER
from dbrun.run.user_files import known_digests, read_record
from dbrun.safetensors_header import IN_PROGRESS, RECORD_FILE
from dbrun.secrets import redact_secrets
from dbrun.store.store import Store

TRAINING_STAGE = "train"


@dataclass
class ProgressPicture:
    """Passes a run's events on, and writes progress.png when the training has drawn new previews.

    An error in this never ends a run: the picture then stays as it is. emit: the next listener; folder: the run's;
    target: the folder that the run delivers to; prompts: of the previews' columns; recipe: the whole one, redacted, for
    the record of a folder that does not exist yet.
    """

    emit: Emit
    store: Store
    folder: Path
    target: Path
    prompts: tuple[str, ...]
    recipe: object
    _drawn: int = 0
    _has_told: bool = field(default=False, repr=False)

    def __call__(self, event: Event) -> None:
        """Pass one event on, then write the picture if there are new previews."""
        self.emit(event)
        # the training tells of each row of previews in a note; the last rows may come without one
        if isinstance(event, Note | StageFinished) and event.stage == TRAINING_STAGE:
            self._update()

    def _update(self) -> None:
        found = len(preview_files(self.folder / PREVIEWS_FOLDER))
        if found <= self._drawn:
            return
        self._drawn = found
        # any error: the picture is an extra, and hours of training are worth more
        try:
            content = strip_png(self.folder / PREVIEWS_FOLDER, self.prompts)
            is_written = content is not None and self._write(content)
        except Exception as error:
            message = (str(error).strip() or "no message").splitlines()[0][:200]
            self._tell(f"no {PROGRESS_FILE}: {type(error).__name__}: {message}", "warning")
            return
        if is_written:
            self._tell(f"how it learns, step by step: {self.target / PROGRESS_FILE}", "info")

    def _write(self, content: bytes) -> bool:
        try:
            # a process that delivers there may need minutes: the next previews are soon enough
            with lock_target(self.store, self.target, waiting=lambda holder: None, stop_signal=lambda: 1):
                return place_progress(content, self.target, self.store, self.recipe)
        except Interrupted:
            return False

    def _tell(self, text: str, level: str) -> None:
        """Show a text; of all, only the first: every further picture has the same place or the same fault."""
        if not self._has_told:
            self._has_told = True
            self.emit(Note(TRAINING_STAGE, text, level))


def strip_png(folder: Path, prompts: Sequence[str]) -> bytes | None:
    """The strip of the previews in a folder as PNG; None without any. Raises as `draw_strip`."""
    strip = draw_strip(folder, [redact_secrets(prompt) for prompt in prompts])
    if strip is None:
        return None
    written = BytesIO()
    strip.save(written, format="PNG", compress_level=COMPRESS_LEVEL)
    return written.getvalue()


def place_progress(content: bytes, target: Path, store: Store, recipe: object) -> bool:
    """Write progress.png into a folder that dbrun delivered, or a new one; return whether that was possible.

    A file of that name which the user has made or changed is left alone, and so is a folder of somebody else. The
    record lists the new picture before it stands, and the one that it replaces: a crash in between leaves either, and
    the delivery knows both. Raises OSError.
    """
    place = real_target(target)
    record = read_record(place)
    if record is None:
        if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
            return False
        place.mkdir(parents=True, exist_ok=True)
        record = {"format_version": FORMAT, "recipe": recipe}
    files = record.get("files", {})
    if not isinstance(files, dict) or "format_version" not in record:
        # the record cannot be read, so that nobody knows whose the files are
        return False
    picture = place / PROGRESS_FILE
    replaced: dict[str, str] = {}
    if os.path.lexists(picture):
        found = "" if picture.is_symlink() else store.digests.sha256(picture)
        if found not in known_digests(record, PROGRESS_FILE):
            return False
        replaced[PROGRESS_FILE] = found
    files = {**files, PROGRESS_FILE: hashlib.sha256(content).hexdigest()}
    document = {**record, IN_PROGRESS: True, "replaced": replaced, "files": files}
    _replace(place / RECORD_FILE, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode(), place)
    _replace(picture, content, place)
    return True


def _replace(path: Path, content: bytes, place: Path) -> None:
    """Write a file of the delivered folder `place` atomically."""
    # beside the folder, under a name by which the next delivery finds and removes what a killed process left
    unfinished = beside(place, NEW)
    try:
        unfinished.write_bytes(content)
        fsync_path(unfinished)
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    fsync_path(place)
