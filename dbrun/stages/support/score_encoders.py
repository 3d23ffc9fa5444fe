"""The encoders of a stage that scores: opened from the files that the run was planned with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dbrun.scores.encoder import Role, open_encoder
from dbrun.stages.base import StageContext
from dbrun.stages.sources import EncoderFiles
from dbrun.stages.support.inputs import verified_path

if TYPE_CHECKING:
    from dbrun.scores.encoder import Encoder


class OpenEncoders:
    """Context manager: encoders, each loaded at its first use."""

    def __init__(self, ctx: StageContext[Any], files: Mapping[Role, EncoderFiles], *, deterministic: bool) -> None:
        """files: role -> name and sha256 of each file of the encoder; deterministic: `train.deterministic`."""
        self.ctx, self.files, self.deterministic = ctx, files, deterministic
        self.opened: dict[Role, Encoder] = {}

    def __enter__(self) -> OpenEncoders:
        self.ctx.work.mkdir(parents=True, exist_ok=True)
        self.folder = TemporaryDirectory(dir=self.ctx.work)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.opened.clear()
        self.folder.cleanup()

    def open(self, role: Role) -> Encoder:
        """The encoder of a role. Raises StageFailed where a file changed after the run began."""
        if role not in self.opened:
            from dbrun.training.device import deterministic_algorithms, set_up_device, settings_restorer

            # as `load_base` does, which has not run where every picture is cached
            self.ctx.resident.settings.callback(settings_restorer())
            device = set_up_device(self.ctx.numerics, self.ctx.process_group.local_rank)
            self.ctx.resident.settings.enter_context(deterministic_algorithms(self.deterministic))
            self.opened[role] = open_encoder(self._linked(role), device, role=role)
        return self.opened[role]

    def _linked(self, role: Role) -> Path:
        """A folder in which the encoder's files have their usual names; the run knows them by digest."""
        folder = Path(self.folder.name) / role
        folder.mkdir()
        for name, digest in self.files[role].items():
            (folder / name).symlink_to(verified_path(self.ctx.files, digest).resolve())
        return folder
