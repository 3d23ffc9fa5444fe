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

from dbrun.adapters.attach import read_weights, write_weights
from dbrun.diffusion.losses import Loss, prior_preservation_loss
from dbrun.errors import StageFailed
from dbrun.models.base import Model
from dbrun.seeds import derive_seed
from dbrun.training.batches import Batch
from dbrun.training.checkpoint import Checkpoint
from dbrun.training.contexts import frozen_base
from dbrun.training.device import seeded_rng
from dbrun.training.ema import EmaWeights
from dbrun.training.evaluation import HeldOutEvaluator
from dbrun.training.gradient_sync import SINGLE_PROCESS, GradientSync
from dbrun.training.optimizer_state import load_state, state_tensors, state_values
from dbrun.training.param_groups import eval_mode, make_param_groups
from dbrun.training.prompt_embeds import PromptEncoder
from dbrun.training.settings import TrainParams

LOWER_RATE_FIX = "lower `train.learning_rate` (a tenth is a good start), or set `train.max_grad_norm`"


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

    base_prompt_encoder: where given, class rows aim at what the frozen base predicts under these conditions.
    gradient_sync: the processes that share the training; the state is the same in each.
    """

    def __init__(self, model: Model, components: Sequence[str], conditions: PromptEncoder,
                 settings: TrainParams, base_prompt_encoder: PromptEncoder | None = None,
                 gradient_sync: GradientSync = SINGLE_PROCESS) -> None:
        self.model, self.prompt_encoder, self.settings = model, conditions, settings
        self.base_prompt_encoder, self.gradient_sync = base_prompt_encoder, gradient_sync
        self.process = model.diffusion_process()
        self.modules: Mapping[str, nn.Module] = {c: model.module(c) for c in components}
        self.param_groups = make_param_groups(self.modules, settings)
        self.parameters = [p for learner in self.param_groups for p in learner.parameters]
        self.accelerator = _accelerator(settings.precision, model.device)
        self.optimizer = self.accelerator.prepare(
            settings.optimizer.build([{"params": one.parameters} for one in self.param_groups], settings.learning_rate))
        self.ema = None if settings.ema is None else EmaWeights(settings.ema, self.parameters)
        self.evaluator: HeldOutEvaluator | None = None
        self.history: list[Metrics] = []

    @property
    def is_done(self) -> bool:
        """Whether the last step is done, or no better one is to be expected."""
        enough = len(self.history) >= self.settings.steps
        return enough or (self.evaluator is not None and self.evaluator.should_stop(self.history))

    def run(self, batches: Callable[[int], Batch]) -> Iterator[Metrics]:
        """Train from where the state stands to the last step, and yield after each."""
        accumulation, slots = self.settings.accumulation, self.gradient_sync.slots(self.settings.accumulation)
        while not self.is_done:
            step = len(self.history)
            self.step([batches(step * accumulation + slot) for slot in slots])
            self._evaluate()
            yield self.history[-1]

    def step(self, batches: Sequence[Batch]) -> Metrics:
        """One optimizer update from these micro-batches, and those of the other processes where there are any.

        Raises StageFailed where a number is no longer finite.
        """
        step, settings = len(self.history), self.settings
        factor = settings.schedule.factor(step, settings.steps)
        rates = {one.component: one.learning_rate * factor if one.is_training(step) else 0.0
                 for one in self.param_groups}
        for group, learner in zip(self.optimizer.param_groups, self.param_groups, strict=True):
            learner.begin_step(step)
            group["lr"] = rates[learner.component]

        losses, gradients = [], self.gradient_sync.gradient_sum(self.parameters)
        accumulation = len(batches) * self.gradient_sync.size
        for slot, batch in zip(self.gradient_sync.slots(accumulation), batches, strict=True):
            with seeded_rng(derive_seed(settings.seed, "dropout", step, slot), self.model.device):
                loss = self.loss(batch)
            self.accelerator.backward(loss.total / accumulation)
            losses += gradients.add(loss)
        gradients.write_grads()

        total, instance, prior = (_mean(part) for part in zip(*losses, strict=True))
        if total is None or instance is None or not math.isfinite(total):
            raise StageFailed(f"the loss is {total} at step {step + 1} of {settings.steps}", fix=LOWER_RATE_FIX)
        for learner in self.param_groups:
            learner.check_gradient(step)
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, settings.max_grad_norm or math.inf))
        self._check_gradient(norm, step)

        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(step + 1)
        self.history.append(Metrics(step + 1, total, instance, prior, settings.learning_rate * factor, norm,
                                    rates if settings.learning_rates or settings.stops else {}))
        return self.history[-1]

    def loss(self, batch: Batch, conditions: PromptEncoder | None = None) -> Loss:
        """The loss of a micro-batch: instance and class rows of one shape go through the denoiser together.

        conditions: others than those of training.
        """
        known = conditions or self.prompt_encoder
        # weighed before the halves are averaged, so that each half is right by itself
        weighed = self._weighted_error(batch, known)
        if batch.class_batch is not None:
            weighed = torch.cat([weighed, self._weighted_error(batch.class_batch, known)])
        return prior_preservation_loss(weighed, batch.num_instances, self.settings.prior_weight)

    def _weighted_error(self, batch: Batch, conditions: PromptEncoder) -> Tensor:
        """The weighed error of each row of one shape, [B]."""
        x0, noise = batch.x0.to(self.model.device), batch.noise.to(self.model.device)
        added = noise if batch.input_noise is None else batch.input_noise.to(self.model.device)
        x_t = self.process.add_noise(x0, added, batch.t)
        target = self.process.target(x0, noise, batch.t)
        if self.base_prompt_encoder is not None and batch.num_instances < len(x0):
            target = torch.cat([target[:batch.num_instances],
                                self._base_prediction(self.base_prompt_encoder, x_t, batch)])
        with self.autocast():
            pred = self.model.predict(x_t, batch.t, {**conditions(batch.prompts), **batch.extra_conditions})
        objective = self.settings.objective
        per_sample: Tensor = objective.distance.per_sample(pred, target, batch.t, self.process, batch.loss_mask)
        weights: Tensor = objective.weighting.weights(self.process.snr(batch.t), self.process.prediction)
        return per_sample * weights.float().to(per_sample.device)

    def _base_prediction(self, conditions: PromptEncoder, x_t: Tensor, batch: Batch) -> Tensor:
        """What the frozen base predicts for the class rows; also the conditions are encoded without adapters."""
        rows = slice(batch.num_instances, None)
        extra_conditions = {name: hint[rows] for name, hint in batch.extra_conditions.items()}
        with frozen_base(self.modules.values()), self.autocast():
            known = {**conditions(batch.prompts[rows]), **extra_conditions}
            return self.model.predict(x_t[rows], batch.t[rows], known).float()

    def adapter_states(self) -> dict[str, dict[str, Tensor]]:
        """Component -> peft state dict of what is to be used, float32: now, or at the best look if one is to be taken.

        Raises StageFailed rather than give a weight that is not finite.
        """
        if self.evaluator is not None and self.evaluator.best_states:
            return self.evaluator.best_states
        return self._current_states()

    def _current_states(self) -> dict[str, dict[str, Tensor]]:
        with self.eval_weights():
            return self._read_states()

    @contextmanager
    def eval_weights(self) -> Iterator[None]:
        """While this is open the weights are those to be used; then, to the bit, those to be trained on."""
        averaged = nullcontext() if self.ema is None else self.ema.swapped_in()
        with self.settings.optimizer.eval_weights(self.optimizer), averaged:
            yield

    @contextmanager
    def sampling_mode(self) -> Iterator[None]:
        """Context manager: the model draws a picture as it would be exported; then weights, modes and random state
        are what they were, to the bit."""
        devices = [torch.cuda.current_device()] if self.model.device.type == "cuda" else []
        with (self.eval_weights(), eval_mode(self.modules.values()), self.autocast(),
              torch.random.fork_rng(devices)):
            yield

    def checkpoint(self) -> Checkpoint:
        """All that training goes on from."""
        tensors = {f"adapter/{component}/{name}": tensor
                   for component, state in self._read_states().items() for name, tensor in state.items()}
        scaler = self.accelerator.scaler
        beside = [one.tensors() for one in (self.ema, self.evaluator) if one is not None]
        tensors |= {name: tensor for more in (state_tensors(self.optimizer), *beside) for name, tensor in more.items()}
        return Checkpoint(step=len(self.history), tensors=tensors, values={
            "optimizer": state_values(self.optimizer), "scaler": scaler.state_dict() if scaler else None,
            "history": [astuple(m) for m in self.history]})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint stood."""
        for component, module in self.modules.items():
            prefix = f"adapter/{component}/"
            write_weights(module, {name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items()
                                   if name.startswith(prefix)})
        load_state(self.optimizer, checkpoint.tensors, checkpoint.values["optimizer"])
        for one in (self.ema, self.evaluator):
            if one is not None:
                one.load_tensors(checkpoint.tensors)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(checkpoint.values["scaler"])
        self.history = [Metrics(*row) for row in checkpoint.values["history"]]

    def _evaluate(self) -> None:
        """Look at the held-out pictures where it is time, with the weights that are to be used."""
        if self.evaluator is None or not self.evaluator.is_due(len(self.history)):
            return
        with self.eval_weights(), eval_mode(self.modules.values()):
            loss = self.evaluator.mean_loss(lambda batch, conditions: self.loss(batch, conditions).total)
        # whether to stop follows from it, which processes on unlike machines could see otherwise
        loss = self.gradient_sync.broadcast(loss)
        self.history[-1] = replace(self.history[-1], held_out_loss=loss)
        self.evaluator.keep_best(self.history, self._current_states)

    def _read_states(self) -> dict[str, dict[str, Tensor]]:
        """As adapter_states, of the weights as they stand."""
        states = {component: read_weights(module) for component, module in self.modules.items()}
        if not all(bool(t.isfinite().all()) for state in states.values() for t in state.values()):
            raise StageFailed(f"the adapter holds numbers that are not finite after step {len(self.history)}",
                              fix=LOWER_RATE_FIX)
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
        raise StageFailed(f"the gradient norm is {norm} at step {step + 1} of {self.settings.steps}",
                          fix=LOWER_RATE_FIX)


def metrics_as_json(metrics: Metrics) -> dict[str, float | None]:
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
        raise _unsupported_precision(precision, device) from error
    if mixed != "no" and not accelerator.native_amp:
        raise _unsupported_precision(precision, device)
    return accelerator


def _unsupported_precision(precision: str, device: torch.device) -> StageFailed:
    return StageFailed(f"{device.type} does not train in precision {precision} here",
                       fix="set `train.precision` to fp32, which runs everywhere, or to bf16")


def _mean(part: Sequence[Tensor | None]) -> float | None:
    tensors = [t.detach() for t in part if t is not None]
    return float(torch.stack(tensors).mean()) if tensors else None
