"""Trackers: TensorBoard, Weights & Biases and trackio, wrapped so that none of them can end a training."""

from __future__ import annotations

import io
import netrc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import tracking

if TYPE_CHECKING:
    from PIL.Image import Image

PROJECT = "dbrun"
Notify = Callable[[str], None]
Scalars = Mapping[str, float | int | str | bool | None]


class TensorBoard(tracking.TensorBoardTracker):  # type: ignore[misc]
    """TensorBoard: event files in the run's folder, for `tensorboard --logdir`."""

    def __init__(self, run: str, folder: Path, say: Notify) -> None:
        super().__init__("tensorboard", folder)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Write the settings as text."""
        # accelerate's add_hparams would show up as a second run beside the curves
        lines = [f"    {name}: {value}" for name, value in values.items()]
        self.writer.add_text("settings", "\n".join(lines))

    def log_images(self, values: dict[str, Sequence[Image]], step: int | None = None, **_: object) -> None:
        """Log the pictures of each name as one array [N, H, W, 3]."""
        import numpy as np

        arrays: dict[str, Any] = {}
        for name, pictures in values.items():
            arrays[name] = np.stack([np.asarray(picture) for picture in pictures])
        super().log_images(arrays, step, dataformats="NHWC")


class WandB(tracking.WandBTracker):  # type: ignore[misc]
    """Weights & Biases: online where the user is logged in, else offline in the run's folder."""

    def __init__(self, run: str, folder: Path, say: Notify) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE")
        if not mode:
            mode = "online" if _logged_in() else "offline"
        if mode == "offline":
            say(f"wandb: offline, in {folder / 'wandb'}; upload it with `wandb sync`")
        folder.mkdir(parents=True, exist_ok=True)
        # only the numbers: no code, no git state, no console output
        settings = wandb.Settings(silent=True, disable_code=True, disable_git=True, console="off")
        project = os.environ.get("WANDB_PROJECT") or PROJECT
        super().__init__(project, name=run, dir=str(folder), mode=mode, settings=settings)


class Trackio(tracking.TrackioTracker):  # type: ignore[misc]
    """trackio: in its own folder (TRACKIO_DIR), for `trackio show`."""

    def __init__(self, run: str, folder: Path, say: Notify) -> None:
        super().__init__(PROJECT, name=f"{run} {folder.name}", embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def log_images(self, values: dict[str, Sequence[Image]], step: int | None = None, **_: object) -> None:
        """Log the last picture of each name; `Trackers` gives one a name."""
        import trackio

        images: dict[str, Any] = {}
        for name, pictures in values.items():
            for picture in pictures:
                images[name] = trackio.Image(picture)
        self.run.log(images, step=step)

    def finish(self) -> None:
        """End the run."""
        import trackio

        # by the package's function: after the run's own method, the package ends it again at exit, and prints that
        trackio.finish()


TRACKERS: Mapping[str, Callable[[str, Path, Notify], Any]] = {"tensorboard": TensorBoard, "wandb": WandB,
                                                              "trackio": Trackio}


class Trackers:
    """Several trackers at once. A tracker that fails is dropped with a warning; its error never reaches the training.

    names: of TRACKERS; run: the run's name; folder: the run's, for trackers that write files; config: the settings;
    note, warn: show the user a text.
    """

    def __init__(self, names: Sequence[str], run: str, folder: Path, config: Scalars, note: Notify,
                 warn: Notify) -> None:
        self._warn = warn
        self._active: dict[str, Any] = {}
        for name in names:
            with self._tolerate_errors(name):
                tracker = TRACKERS[name](run, folder, note)
                tracker.start()
                # before the settings are sent: a tracker that fails there is active, and is dropped like any other
                self._active[name] = tracker
                tracker.store_init_configuration(dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers of this step."""
        self._each(lambda tracker: tracker.log(dict(values), step=step))

    def log_images(self, named: Mapping[str, Image], step: int) -> None:
        """Log the sample pictures of this step, by name."""
        lists = {name: [picture] for name, picture in named.items()}
        self._each(lambda tracker: tracker.log_images(lists, step=step))

    def close(self) -> None:
        """Finish each tracker, so that it writes what it still holds."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, call: Callable[[Any], None]) -> None:
        """Call a function with each active tracker."""
        # a copy: a tracker that fails is removed meanwhile
        for name, tracker in list(self._active.items()):
            with self._tolerate_errors(name):
                call(tracker)

    @contextmanager
    def _tolerate_errors(self, name: str) -> Iterator[None]:
        """Context manager: turn an error of this tracker into a warning and drop the tracker."""
        try:
            # what trackers print would stand among the run's own lines
            with redirect_stdout(io.StringIO()):
                yield
        # SystemExit, too: a tracker must not end the program either
        except (Exception, SystemExit) as error:
            self._active.pop(name, None)
            message = (str(error).strip() or "no message").splitlines()[0][:200]
            self._warn(f"{name} failed and is not used any more: {type(error).__name__}: {message}")


def _logged_in() -> bool:
    """Whether Weights & Biases would find a key; without one it would ask on the terminal and block the run."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
