"""How are programs told that watch a training, so that none of them can end it?"""

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
    """Event files in the run's folder, for `tensorboard --logdir`."""

    def __init__(self, run: str, folder: Path, say: Notify) -> None:
        super().__init__("tensorboard", folder)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """As text: its own form would put a run of its own beside the curves."""
        self.writer.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in values.items()))

    def log_images(self, values: dict[str, Sequence[Image]], step: int | None = None, **_: object) -> None:
        """A picture for each name."""
        import numpy as np

        super().log_images({name: np.stack([np.asarray(one) for one in pictures]) for name, pictures in values.items()},
                           step, dataformats="NHWC")


class WandB(tracking.WandBTracker):  # type: ignore[misc]
    """Weights & Biases; offline in the run's folder where nobody is logged in."""

    def __init__(self, run: str, folder: Path, say: Notify) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
        if mode == "offline":
            say(f"wandb: offline, in {folder / 'wandb'}; `wandb sync` uploads it")
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(os.environ.get("WANDB_PROJECT") or PROJECT, name=run, dir=str(folder), mode=mode,
                         settings=wandb.Settings(silent=True, disable_code=True, disable_git=True, console="off"))


class Trackio(tracking.TrackioTracker):  # type: ignore[misc]
    """trackio, which keeps its own folder (TRACKIO_DIR), for `trackio show`."""

    def __init__(self, run: str, folder: Path, say: Notify) -> None:
        super().__init__(PROJECT, name=f"{run} {folder.name}", embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def log_images(self, values: dict[str, Sequence[Image]], step: int | None = None, **_: object) -> None:
        """A picture for each name."""
        import trackio

        self.run.log({name: trackio.Image(one) for name, pictures in values.items() for one in pictures}, step=step)

    def finish(self) -> None:
        """Through the package, which else ends the run once more when Python exits, and prints that."""
        import trackio

        trackio.finish()


TRACKERS: Mapping[str, Callable[[str, Path, Notify], Any]] = {"tensorboard": TensorBoard, "wandb": WandB,
                                                              "trackio": Trackio}


class Trackers:
    """Several at once. One that fails is told of and left out from then on; training never hears of it.

    folder: the run's, where those write that write files; note, warn: tell the user something.
    """

    def __init__(self, names: Sequence[str], run: str, folder: Path, config: Scalars, note: Notify,
                 warn: Notify) -> None:
        self._warn = warn
        self._active: dict[str, Any] = {}
        for name in names:
            with self._tolerate_errors(name):
                made = TRACKERS[name](run, folder, note)
                made.start()
                self._active[name] = made
                made.store_init_configuration(dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """The numbers after this step."""
        self._each(lambda one: one.log(dict(values), step=step))

    def log_images(self, named: Mapping[str, Image], step: int) -> None:
        """Pictures that were drawn after this step."""
        self._each(lambda one: one.log_images({name: [picture] for name, picture in named.items()}, step=step))

    def close(self) -> None:
        """Let each write what it still holds."""
        self._each(lambda one: one.finish())

    def _each(self, tell: Callable[[Any], None]) -> None:
        for name, one in list(self._active.items()):
            with self._tolerate_errors(name):
                tell(one)

    @contextmanager
    def _tolerate_errors(self, name: str) -> Iterator[None]:
        try:
            # what they print would stand among the run's own words
            with redirect_stdout(io.StringIO()):
                yield
        except (Exception, SystemExit) as error:
            self._active.pop(name, None)
            words = (str(error).strip() or "no message").splitlines()[0][:200]
            self._warn(f"{name} is not told any more: {type(error).__name__}: {words}")


def _logged_in() -> bool:
    """Whether Weights & Biases would find a key; asking for one would hold the run up."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
