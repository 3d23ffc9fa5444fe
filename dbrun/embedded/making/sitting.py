"""Settings of a pre-training run, and the loop of one phase with its log, checkpoints and reports."""

from __future__ import annotations

import argparse
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
"""Share of a phase's time in which its learning rate falls."""
LOG_EVERY = 60.0
SAVE_EVERY = 240.0
"""Seconds between two log lines, and between two checkpoints."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of a pre-training run. out: folder of checkpoints and results; minutes: training time over all sittings.

    finish: minutes over which the denoiser's learning rate falls from now on; None: in the last part of `minutes`.
    scenes: number of training pictures; batch: pictures of a denoiser step; workers: processes that draw.
    start: an exported model to train on from: its autoencoder is kept, its denoiser is trained further.
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
        """Random generator for one place of the run, such as ("vae", step); independent of what was drawn before."""
        return torch.Generator().manual_seed(Random(f"{self.seed} {place}").getrandbits(62))

    def autocast(self) -> torch.autocast:
        """Context manager: run in bfloat16 where `bf16` is set."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def add_settings(parser: argparse.ArgumentParser, batch: int, batch_of: str) -> None:
    """Add the options of every pre-training; batch: the usual number of `batch_of` of a step."""
    parser.add_argument("--minutes", type=float, required=True, help="time to train, all sittings together")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and the result")
    parser.add_argument("--finish", type=float, help="let the rate fall over this many minutes, then export")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--batch", type=int, default=batch, help=f"{batch_of} of a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fp32", action="store_true", help="no bf16 autocast")


def begin_sitting(options: argparse.Namespace, scenes: int, start: Path | None = None) -> PretrainSettings:
    """Settings of the options of `add_settings`; sets up the log and the number of threads as well.

    scenes, start: as in PretrainSettings.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    return PretrainSettings(
        out=options.out,
        minutes=options.minutes,
        finish=options.finish,
        seed=options.seed,
        scenes=scenes,
        batch=options.batch,
        workers=options.workers,
        device=torch.device(options.device),
        bf16=not options.fp32,
        start=start,
    )


def train_phase(
    phase: Phase[Network],
    loss_at: Callable[[int], Tensor],
    minutes: float,
    finish: float | None,
    report: Callable[[], None],
) -> None:
    """Train one phase to its end, with a log line every minute, and a checkpoint and a report every four.

    loss_at: step → scalar loss; minutes: the budget, earlier sittings included; finish: minutes over which the learning
    rate falls from now on, instead; report: called after every checkpoint.
    """
    budget, falling = minutes * 60, DECAY_SHARE * minutes * 60
    if finish is not None:
        budget, falling = phase.progress.seconds + finish * 60, finish * 60
    logged = saved = time.monotonic()
    losses: list[float] = []
    for result in run_phase(phase, loss_at, budget, falling):
        losses.append(result.loss)
        now = time.monotonic()
        if now - logged > LOG_EVERY:
            pace = (now - logged) / len(losses)
            _log(phase, result, losses, pace)
            losses, logged = [], now
        if now - saved > SAVE_EVERY:
            phase.save()
            report()
            # the report's own seconds do not count as training
            losses, logged = [], time.monotonic()
            saved = logged
    phase.save()
    report()


def _log(phase: Phase[Network], result: StepResult, losses: list[float], pace: float) -> None:
    """Log the mean of the losses since the last line; pace: seconds per step."""
    falling = ""
    if phase.progress.finish_from is not None:
        falling = " (falling)"
    rate = phase.progress.learning_rate()
    mean, minutes = sum(losses) / len(losses), result.seconds / 60
    text = "%s: step %d, loss %.4f, %.2f s a step, %.1f min, rate %.1e%s"
    LOG.info(text, phase.path.stem, result.step, mean, pace, minutes, rate, falling)
