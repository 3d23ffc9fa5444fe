"""One phase of pre-training: the network, its moving average, the learning rate, and the checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

WARMUP_STEPS = 300
PEAK_LEARNING_RATE = 1e-3
FINAL_RATE_SHARE = 0.02
EMA_DECAY = 0.9995

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Progress:
    """Progress of a phase. finish_from: step from which the rate falls, over `finish_steps` steps; None: not yet."""

    step: int = 0
    seconds: float = 0.0
    finish_from: int | None = None
    finish_steps: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether the learning rate has fallen to its end."""
        return self.finish_from is not None and self.step >= self.finish_from + self.finish_steps

    def learning_rate(self) -> float:
        """Learning rate of the current step: linear warm-up, constant, then half a cosine down to 2 %."""
        rate = PEAK_LEARNING_RATE * min(1.0, (self.step + 1) / WARMUP_STEPS)
        if self.finish_from is None:
            return rate
        fraction = min(1.0, (self.step - self.finish_from) / max(self.finish_steps, 1))
        cosine = 0.5 * (1 + math.cos(math.pi * fraction))
        return rate * (FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * cosine)

    def begin_finish(self, seconds: float, pace: float) -> None:
        """Start the fall of the learning rate, over as many steps as fit in `seconds` at `pace` seconds per step."""
        self.finish_from = self.step
        self.finish_steps = max(1, round(seconds / pace))


class Phase(Generic[Network]):
    """Network in training with everything that a checkpoint holds."""

    def __init__(self, network: Network, average: Network, path: Path) -> None:
        """Start at step 0, or resume the checkpoint at path; average: a copy of network for the moving average."""
        self.network, self.average, self.path = network, average.eval().requires_grad_(False), path
        self.trainable = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
        self.progress = Progress()
        if path.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        """Write the checkpoint; the old one stays valid until the new one is complete."""
        part = self.path.with_suffix(".part")
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        torch.save(state, part)
        part.rename(self.path)

    def update(self, loss: Tensor) -> None:
        """Take one optimizer step for a scalar loss, then update the moving average."""
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trainable, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.progress.learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        # a short memory at first, so that the random start weights are soon forgotten
        decay = min(EMA_DECAY, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)


@dataclass(frozen=True)
class StepResult:
    """Result of a training step. seconds: of all steps so far, over all sittings."""

    step: int
    loss: float
    seconds: float


def run_phase(phase: Phase[Network], loss_at: Callable[[int], Tensor], budget: float,
              finish: float) -> Iterator[StepResult]:
    """Train until the learning rate has fallen; yields after every step. Raises RuntimeError for a loss not finite.

    loss_at: step → scalar loss; budget: seconds over all sittings; finish: the last seconds of it, in which the rate
    falls. The length of the fall is fixed in steps once it begins, so that a resumed run takes the same steps as an
    unbroken one.
    """
    progress = phase.progress
    pace: float | None = None
    while not progress.is_finished:
        started = time.monotonic()
        loss = loss_at(progress.step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RuntimeError(f"the loss is {value} at step {progress.step}")
        phase.update(loss)
        taken = time.monotonic() - started
        # the first steps of a sitting are slow while caches fill: start the mean again once steps are 10 times faster
        if pace is None or pace > 10 * taken:
            pace = taken
        else:
            pace = 0.98 * pace + 0.02 * taken
        progress.seconds += taken
        if progress.finish_from is None and progress.seconds >= budget - finish:
            progress.begin_finish(max(budget - progress.seconds, 0.0), pace)
        yield StepResult(progress.step, value, progress.seconds)
