"""What a pre-training run was asked for, and one phase's sitting: steps, log lines, checkpoints, reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from dbrun.embedded.making.architecture import FULL, ModelSizes
from dbrun.embedded.making.course import Network, Phase, StepResult, run_phase

LOG = logging.getLogger("dbrun.embedded.making.pretrain")
DECAY_SHARE = 0.3
LOG_EVERY = 60.0
SAVE_EVERY = 240.0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class PretrainSettings:
    """What was asked for on the command line; `minutes` and `finish` are minutes of training.

    `start` is an exported model to go on from: its autoencoder stays as it is, its denoiser learns on.
    """

    out: Path
    minutes: float
    finish: float | None = None
    seed: int = 0
    scenes: int = 80_000
    batch: int = 32
    workers: int = 2
    sizes: ModelSizes = FULL
    device: torch.device = CPU
    bf16: bool = True
    start: Path | None = None

    def generator(self, *place: object) -> torch.Generator:
        """The random numbers that belong to one place of the run, whatever was drawn before."""
        return torch.Generator().manual_seed(Random(f"{self.seed} {place}").getrandbits(62))

    def autocast(self) -> torch.autocast:
        """Half precision where it was not turned off."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def train_phase(
    phase: Phase[Network],
    loss_at: Callable[[int], Tensor],
    minutes: float,
    finish: float | None,
    report: Callable[[], None],
) -> None:
    """Train one phase to its end: a log line every minute, a checkpoint and a report every few.

    `minutes` is the whole budget, earlier sittings counted; `finish` instead lets the rate fall from now on.
    """
    budget, falling = minutes * 60, DECAY_SHARE * minutes * 60
    if finish is not None:
        budget, falling = phase.progress.seconds + finish * 60, finish * 60
    logged = saved = time.monotonic()
    losses: list[float] = []
    for tick in run_phase(phase, loss_at, budget, falling):
        losses.append(tick.loss)
        now = time.monotonic()
        if now - logged > LOG_EVERY:
            _log(phase, tick, losses, (now - logged) / len(losses))
            losses, logged = [], now
        if now - saved > SAVE_EVERY:
            phase.save()
            report()
            losses, logged = [], time.monotonic()
            saved = logged
    phase.save()
    report()


def _log(phase: Phase[Network], tick: StepResult, losses: list[float], pace: float) -> None:
    falling = " (falling)" if phase.progress.finish_from is not None else ""
    rate = phase.progress.learning_rate()
    mean, minutes = sum(losses) / len(losses), tick.seconds / 60
    text = "%s: step %d, loss %.4f, %.2f s a step, %.1f min, rate %.1e%s"
    LOG.info(text, phase.path.stem, tick.step, mean, pace, minutes, rate, falling)
