"""How does a step of training go?"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from dbrun.adapters.attach import read, write
from dbrun.diffusion.losses import Loss, by_halves
from dbrun.errors import StageFailed
from dbrun.models.base import Family, Loaded
from dbrun.options.ema import Ema
from dbrun.options.loss_functions import MSE, Distance
from dbrun.options.optimizers import OptimizerChoice
from dbrun.options.schedules import Schedule
from dbrun.options.weightings import UNWEIGHTED, Weighting
from dbrun.seeds import derive
from dbrun.training.batches import Batch
from dbrun.training.checkpoint import Checkpoint
from dbrun.training.contexts import as_base
from dbrun.training.device import seeded
from dbrun.training.ema import Averages
from dbrun.training.evaluation import Watch
from dbrun.training.gradient_sync import ALONE, Exchange
from dbrun.training.optimizer_state import put_back, tensors_of, values_of
from dbrun.training.param_groups import Own, at_rest, learners
from dbrun.training.prompt_embeds import Conditions

LOWER = "lower `train.learning_rate` (a tenth is a good start), or set `train.max_grad_norm`"


@dataclass(frozen=True)
class Settings:
    """How to train; the words are the recipe's.

    prior_weight: counts only where batches hold class pictures; own: what single components have otherwise.
    """

    steps: int
    learning_rate: float
    accumulation: int
    max_grad_norm: float | None
    optimizer: OptimizerChoice
    schedule: Schedule
    precision: str
    prior_weight: float
    seed: int
    own: Own = field(default_factory=Own)
    distance: Distance = MSE
    weighting: Weighting = UNWEIGHTED
    ema: Ema | None = None


@dataclass(frozen=True)
class Metrics:
    """What a step did. step: counted from 1; learning_rate: the common one; grad_norm: before clipping.

    learning_rates: each component's where any has one of its own or a stop, after which it is 0; held_out_loss: of a
    look at the held-out pictures after the step, if there was one.
    """

    step: int
    loss: float
    instance_loss: float
    prior_loss: float | None
    learning_rate: float
    grad_norm: float
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    held_out_loss: float | None = None


class Trainer:
    """The training state: adapters that are attached to a base, their optimizer, and the step they are at.

    of_base: where given, class rows aim at what the frozen base predicts under these conditions.
    exchange: the processes that share the training; the state is the same in each.
    """

    def __init__(self, family: Family, loaded: Loaded, components: Sequence[str], conditions: Conditions,
                 settings: Settings, of_base: Conditions | None = None, exchange: Exchange = ALONE) -> None:
        self.family, self.loaded, self.conditions, self.settings = family, loaded, conditions, settings
        self.of_base, self.exchange = of_base, exchange
        self.process = family.process(loaded)
        self.modules: Mapping[str, nn.Module] = {c: family.module(loaded, c) for c in components}
        self.learners = learners(self.modules, settings.learning_rate, settings.own)
        self.parameters = [p for learner in self.learners for p in learner.parameters]
        self.accelerator = _accelerator(settings.precision, loaded.device)
        self.optimizer = self.accelerator.prepare(
            settings.optimizer.build([{"params": one.parameters} for one in self.learners], settings.learning_rate))
        self.averages = None if settings.ema is None else Averages(settings.ema, self.parameters)
        self.watch: Watch | None = None
        self.history: list[Metrics] = []

    @property
    def over(self) -> bool:
        """Whether the last step is done, or no better one is to be expected."""
        enough = len(self.history) >= self.settings.steps
        return enough or (self.watch is not None and self.watch.ends(self.history))

    def run(self, batches: Callable[[int], Batch]) -> Iterator[Metrics]:
        """Train from where the state stands to the last step, and yield after each."""
        accumulation, slots = self.settings.accumulation, self.exchange.slots(self.settings.accumulation)
        while not self.over:
            step = len(self.history)
            self.step([batches(step * accumulation + slot) for slot in slots])
            self._look()
            yield self.history[-1]

    def step(self, batches: Sequence[Batch]) -> Metrics:
        """One optimizer update from these micro-batches, and those of the other processes where there are any.

        Raises StageFailed where a number is no longer finite.
        """
        step, settings = len(self.history), self.settings
        factor = settings.schedule.factor(step, settings.steps)
        rates = {one.component: one.rate * factor if one.learns(step) else 0.0 for one in self.learners}
        for group, learner in zip(self.optimizer.param_groups, self.learners, strict=True):
            learner.begin(step)
            group["lr"] = rates[learner.component]

        losses, gradients = [], self.exchange.gradients(self.parameters)
        accumulation = len(batches) * self.exchange.size
        for slot, batch in zip(self.exchange.slots(accumulation), batches, strict=True):
            with seeded(derive(settings.seed, "dropout", step, slot), self.loaded.device):
                loss = self.loss(batch)
            self.accelerator.backward(loss.total / accumulation)
            losses += gradients.add(loss)
        gradients.settle()

        total, instance, prior = (_mean(part) for part in zip(*losses, strict=True))
        if total is None or instance is None or not math.isfinite(total):
            raise StageFailed(f"the loss is {total} at step {step + 1} of {settings.steps}", fix=LOWER)
        for learner in self.learners:
            learner.check(step)
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, settings.max_grad_norm or math.inf))
        self._check_gradient(norm, step)

        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.averages is not None:
            self.averages.update(step + 1)
        self.history.append(Metrics(step + 1, total, instance, prior, settings.learning_rate * factor, norm,
                                    rates if settings.own else {}))
        return self.history[-1]

    def loss(self, batch: Batch, conditions: Conditions | None = None) -> Loss:
        """The loss of a micro-batch: instance and class rows of one shape go through the denoiser together.

        conditions: others than those of training.
        """
        known = conditions or self.conditions
        # weighed before the halves are averaged, so that each half is right by itself
        weighed = self._weighed(batch, known)
        if batch.apart is not None:
            weighed = torch.cat([weighed, self._weighed(batch.apart, known)])
        return by_halves(weighed, batch.instances, self.settings.prior_weight)

    def _weighed(self, batch: Batch, conditions: Conditions) -> Tensor:
        """The weighed error of each row of one shape, [B]."""
        x0, noise = batch.x0.to(self.loaded.device), batch.noise.to(self.loaded.device)
        added = noise if batch.added is None else batch.added.to(self.loaded.device)
        x_t = self.process.add_noise(x0, added, batch.t)
        target = self.process.target(x0, noise, batch.t)
        if self.of_base is not None and batch.instances < len(x0):
            target = torch.cat([target[:batch.instances], self._as_base(self.of_base, x_t, batch)])
        with self.autocast():
            pred = self.family.predict(self.loaded, x_t, batch.t, {**conditions(batch.prompts), **batch.hints})
        per_sample = self.settings.distance.per_sample(pred, target, batch.t, self.process, batch.counts)
        weights = self.settings.weighting.weights(self.process.snr(batch.t), self.process.prediction)
        return per_sample * weights.float().to(per_sample.device)

    def _as_base(self, conditions: Conditions, x_t: Tensor, batch: Batch) -> Tensor:
        """What the frozen base predicts for the class rows; also the conditions are encoded without adapters."""
        rows = slice(batch.instances, None)
        hints = {name: hint[rows] for name, hint in batch.hints.items()}
        with as_base(self.modules.values()), self.autocast():
            known = {**conditions(batch.prompts[rows]), **hints}
            return self.family.predict(self.loaded, x_t[rows], batch.t[rows], known).float()

    def adapters(self) -> dict[str, dict[str, Tensor]]:
        """Component -> peft state dict of what is to be used, float32: now, or at the best look if one is to be taken.

        Raises StageFailed rather than give a weight that is not finite.
        """
        if self.watch is not None and self.watch.best:
            return self.watch.best
        return self._of_now()

    def _of_now(self) -> dict[str, dict[str, Tensor]]:
        with self.leaving():
            return self._weights()

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """While this is open the weights are those to be used; then, to the bit, those to be trained on."""
        averaged = nullcontext() if self.averages is None else self.averages.worn()
        with self.settings.optimizer.leaving(self.optimizer), averaged:
            yield

    def checkpoint(self) -> Checkpoint:
        """All that training goes on from."""
        tensors = {f"adapter/{component}/{name}": tensor
                   for component, state in self._weights().items() for name, tensor in state.items()}
        scaler = self.accelerator.scaler
        beside = [one.tensors() for one in (self.averages, self.watch) if one is not None]
        tensors |= {name: tensor for more in (tensors_of(self.optimizer), *beside) for name, tensor in more.items()}
        return Checkpoint(step=len(self.history), tensors=tensors, values={
            "optimizer": values_of(self.optimizer), "scaler": scaler.state_dict() if scaler else None,
            "history": [astuple(m) for m in self.history]})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint stood."""
        for component, module in self.modules.items():
            prefix = f"adapter/{component}/"
            write(module, {name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items()
                           if name.startswith(prefix)})
        put_back(self.optimizer, checkpoint.tensors, checkpoint.values["optimizer"])
        for one in (self.averages, self.watch):
            if one is not None:
                one.put_back(checkpoint.tensors)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(checkpoint.values["scaler"])
        self.history = [Metrics(*row) for row in checkpoint.values["history"]]

    def _look(self) -> None:
        """Look at the held-out pictures where it is time, with the weights that are to be used."""
        if self.watch is None or not self.watch.due(len(self.history)):
            return
        with self.leaving(), at_rest(self.modules.values()):
            loss = self.watch.look(lambda batch, conditions: self.loss(batch, conditions).total)
        # whether to stop follows from it, which processes on unlike machines could see otherwise
        loss = self.exchange.agree(loss)
        self.history[-1] = replace(self.history[-1], held_out_loss=loss)
        self.watch.take(self.history, self._of_now)

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        """As `adapters`, of the weights as they stand."""
        states = {component: read(module) for component, module in self.modules.items()}
        if not all(bool(t.isfinite().all()) for state in states.values() for t in state.values()):
            raise StageFailed(f"the adapter holds numbers that are not finite after step {len(self.history)}",
                              fix=LOWER)
        return states

    def autocast(self) -> AbstractContextManager[Any]:
        """What the forward pass computes in."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def _check_gradient(self, norm: float, step: int) -> None:
        scaler = self.accelerator.scaler
        # under fp16 an overflow only makes the scaler skip the step and halve its scale, until it falls below 1
        if math.isfinite(norm) or (scaler and scaler.get_scale() >= 1.0):
            return
        raise StageFailed(f"the gradient norm is {norm} at step {step + 1} of {self.settings.steps}", fix=LOWER)


def finite(metrics: Metrics) -> dict[str, float | None]:
    """By name; None also for a gradient norm that overflowed under fp16, since JSON knows no infinity."""
    named = asdict(metrics)
    rates = {f"learning_rate.{component}": rate for component, rate in named.pop("learning_rates").items()}
    if named["held_out_loss"] is None:
        del named["held_out_loss"]
    return {name: value if value is not None and math.isfinite(value) else None
            for name, value in (named | rates).items()}


def _accelerator(precision: str, device: torch.device) -> Accelerator:
    # accelerate keeps one state per process, and refuses another precision in the same process
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    mixed = "no" if precision == "fp32" else precision
    # accelerate would let the environment change the arithmetic under the same key
    if strange := sorted(name for name in os.environ if name.startswith("ACCELERATE_")):
        raise StageFailed(f"accelerate is set up by the environment ({', '.join(strange)}), but the recipe decides",
                          fix=f"unset {' '.join(strange)}")
    try:
        accelerator = Accelerator(mixed_precision=mixed, cpu=device.type == "cpu")
    except ValueError as error:
        raise _no_such(precision, device) from error
    if mixed != "no" and not accelerator.native_amp:
        raise _no_such(precision, device)
    return accelerator


def _no_such(precision: str, device: torch.device) -> StageFailed:
    return StageFailed(f"{device.type} does not train in precision {precision} here",
                       fix="set `train.precision` to fp32, which runs everywhere, or to bf16")


def _mean(part: Sequence[Tensor | None]) -> float | None:
    tensors = [t.detach() for t in part if t is not None]
    return float(torch.stack(tensors).mean()) if tensors else None
