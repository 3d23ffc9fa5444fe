"""The training loop: the training state, one optimizer step, held-out evaluation, and checkpoints of the state."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from dbrun.adapters.attach import read_weights, write_weights
from dbrun.diffusion.device_copy import one_to_device, to_device
from dbrun.diffusion.losses import Loss, prior_preservation_loss
from dbrun.errors import StageFailed
from dbrun.models.base import Model
from dbrun.seeds import derive_seed
from dbrun.training.batches import Batch, batch_to_device
from dbrun.training.checkpoint import Checkpoint
from dbrun.training.contexts import frozen_base
from dbrun.training.device import draws_random, seeded_rng
from dbrun.training.ema import EmaWeights
from dbrun.training.evaluation import HeldOutEvaluator
from dbrun.training.flat_weights import FlatWeights, global_norm
from dbrun.training.fused_lora import fused_lora
from dbrun.training.gradient_sync import SINGLE_PROCESS, GradientSync
from dbrun.training.optimizer_state import load_state, state_tensors, state_values
from dbrun.training.param_groups import eval_mode, make_param_groups
from dbrun.training.prompt_embeds import PromptEncoder
from dbrun.training.settings import TrainParams
from dbrun.training.speedups import PLAIN

LOWER_RATE_FIX = "lower `train.learning_rate` (a tenth is a good start), or set `train.max_grad_norm`"


@dataclass(frozen=True)
class Metrics:
    """The numbers of one step. The order of the fields is the order of a checkpoint's history rows.

    step: counted from 1; loss, instance_loss, prior_loss: means over the micro-batches; learning_rate: the common one;
    grad_norm: before clipping; learning_rates: component -> its rate, 0 after its stop; empty where all share the
    common rate and none stops; held_out_loss: after this step, None where it was not evaluated.
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
    """The training state: the adapters attached to a base, their optimizer, and the metrics of all steps so far.

    components: those that are trained. conditions: encodes the prompts of a batch. base_prompt_encoder: if given, the
    target of class rows is the frozen base's prediction under these conditions. gradient_sync: the processes that share
    the training; the state is the same in each.
    """

    def __init__(self, model: Model, components: Sequence[str], conditions: PromptEncoder,
                 settings: TrainParams, base_prompt_encoder: PromptEncoder | None = None,
                 gradient_sync: GradientSync = SINGLE_PROCESS) -> None:
        self.model, self.prompt_encoder, self.settings = model, conditions, settings
        self.base_prompt_encoder, self.gradient_sync = base_prompt_encoder, gradient_sync
        self.process = model.diffusion_process()
        self.modules: Mapping[str, nn.Module] = {c: model.module(c) for c in components}
        self.param_groups = make_param_groups(self.modules, settings)
        self.parameters = [p for group in self.param_groups for p in group.parameters]
        self.has_dropout = any(draws_random(module) for module in model.loaded_modules().values())
        self.accelerator = _accelerator(settings.precision, model.device)
        flatten = settings.optimizer.ELEMENTWISE
        self.flat_weights = [FlatWeights(group.parameters, flatten=flatten) for group in self.param_groups]
        torch_groups: list[dict[str, Any]] = [{"params": flat.weights} for flat in self.flat_weights]
        self.optimizer = settings.optimizer.build(torch_groups, settings.learning_rate)
        # accelerate's wrapper skips the steps that overflowed, and looks for packages at every step
        if self.accelerator.scaler:
            self.optimizer = self.accelerator.prepare(self.optimizer)
        self.ema = None if settings.ema is None else EmaWeights(settings.ema, self._weights())
        self.evaluator: HeldOutEvaluator | None = None
        self.speedups = PLAIN
        self.history: list[Metrics] = []

    @property
    def is_done(self) -> bool:
        """Whether the last step is done, or early stopping ends the training."""
        if len(self.history) >= self.settings.steps:
            return True
        return self.evaluator is not None and self.evaluator.should_stop(self.history)

    def run(self, batches: Callable[[int], Batch]) -> Iterator[Metrics]:
        """Train from the current step to the last one, and yield the metrics of each.

        batches: number of a micro-batch, counted from 0 over the whole training -> the micro-batch.
        """
        accumulation = self.settings.accumulation
        slots = self.gradient_sync.slots(accumulation)
        with self.fused_layers():
            while not self.is_done:
                step = len(self.history)
                self.step([batches(step * accumulation + slot) for slot in slots])
                self._evaluate()
                yield self.history[-1]

    def step(self, batches: Sequence[Batch]) -> Metrics:
        """One optimizer update from this process's micro-batches, with the gradients of all processes.

        Raises StageFailed where the loss or a gradient is no longer finite.
        """
        step, settings = len(self.history), self.settings

        # each component has a rate of its own; one past its `stop_at` has 0
        factor = settings.schedule.factor(step, settings.steps)
        rates: dict[str, float] = {}
        for torch_group, group in zip(self.optimizer.param_groups, self.param_groups, strict=True):
            group.begin_step(step)
            rates[group.component] = group.learning_rate * factor if group.is_training(step) else 0.0
            torch_group["lr"] = rates[group.component]

        # forward and backward, one micro-batch after the other
        gradients = self.gradient_sync.gradient_sum(self.parameters)
        accumulation = len(batches) * self.gradient_sync.size
        for slot, batch in zip(self.gradient_sync.slots(accumulation), batches, strict=True):
            self.speedups.check(batch.x0.shape, partial(self._slot_loss, step, slot, batch), self.parameters)
            loss = self._slot_loss(step, slot, batch)
            self.accelerator.backward(loss.total / accumulation)
            if len(batches) > 1:
                self.speedups.own_gradients(self.parameters)
            gradients.add(loss)
        losses = gradients.finish()

        # one gradient for all parameters of a piece
        for number, (group, flat) in enumerate(zip(self.param_groups, self.flat_weights, strict=True)):
            group.check_gradient(step)
            flat.gather_grads(self.optimizer, number)
        self.accelerator.unscale_gradients()
        weights = self._weights()
        grad_norm = global_norm([weight.grad for weight in weights if weight.grad is not None])
        if settings.max_grad_norm is not None:
            clip_grads_with_norm_(weights, settings.max_grad_norm, grad_norm)

        # refuse numbers that are not finite before they reach the weights; all are read at once, since each read waits
        # for the device
        total, instance, prior, norm = _read_numbers(losses, grad_norm)
        if not math.isfinite(total):
            raise StageFailed(f"the loss is {total} at step {step + 1} of {settings.steps}", fix=LOWER_RATE_FIX)
        self._check_gradient(norm, step)

        self.optimizer.step()
        for weight in weights:
            weight.grad = None
        if self.ema is not None:
            self.ema.update(step + 1)
        # the file says them only where they differ
        if not (settings.learning_rates or settings.stops):
            rates = {}
        self.history.append(Metrics(step + 1, total, instance, prior, settings.learning_rate * factor, norm, rates))
        return self.history[-1]

    def _slot_loss(self, step: int, slot: int, batch: Batch) -> Loss:
        """The loss of a micro-batch of a step, with the draws of its slot; the same each time."""
        if not self.has_dropout:
            return self.loss(batch)
        # the seed follows from step and slot, not from what was drawn before: a resumed run repeats it
        with seeded_rng(derive_seed(self.settings.seed, "dropout", step, slot), self.model.device):
            return self.loss(batch)

    def loss(self, batch: Batch, conditions: PromptEncoder | None = None) -> Loss:
        """The loss of a micro-batch. Instance and class rows of one shape go through the denoiser together.

        conditions: encodes the prompts, in place of the training's prompt encoder.
        """
        prompt_encoder = conditions or self.prompt_encoder
        # timestep weights are applied per row, before the mean of each half is taken: a mean of its own for each half
        # stays right whatever timesteps the other half drew
        weighted = self._weighted_error(batch, prompt_encoder)
        if batch.class_batch is not None:
            weighted = torch.cat([weighted, self._weighted_error(batch.class_batch, prompt_encoder)])
        return prior_preservation_loss(weighted, batch.num_instances, self.settings.prior_weight)

    def _weighted_error(self, batch: Batch, conditions: PromptEncoder) -> Tensor:
        """The weighted error of each row, float32 [B]; all rows of the batch have one shape."""
        with self.autocast():
            condition = conditions(batch.prompts)
        batch, condition = batch_to_device(batch, condition, self.model.device)
        input_noise = batch.noise if batch.input_noise is None else batch.input_noise
        x_t = self.process.add_noise(batch.x0, input_noise, batch.t)

        # with prior target `base` the class rows aim at the frozen base's prediction
        target = self.process.target(batch.x0, batch.noise, batch.t)
        if self.base_prompt_encoder is not None and batch.num_instances < len(x_t):
            class_target = self._base_prediction(self.base_prompt_encoder, x_t, batch)
            target = torch.cat([target[:batch.num_instances], class_target])

        with self.autocast():
            pred = self.speedups.predict(self.model, x_t, batch.t, {**condition, **batch.extra_conditions})

        objective = self.settings.objective
        per_sample: Tensor = objective.distance.per_sample(pred, target, batch.t, self.process, batch.loss_mask)
        weights: Tensor = objective.weighting.weights(self.process.snr(batch.t), self.process.prediction)
        return per_sample * one_to_device(weights.float(), per_sample.device)

    def _base_prediction(self, conditions: PromptEncoder, x_t: Tensor, batch: Batch) -> Tensor:
        """The frozen base's prediction for the class rows, float32 [class rows, C, h, w]."""
        rows = slice(batch.num_instances, None)
        # the prompts are encoded inside, too: a text encoder may carry an adapter
        with frozen_base(self.modules.values()), self.autocast():
            extra_conditions = {name: tensor[rows] for name, tensor in batch.extra_conditions.items()}
            condition = to_device({**conditions(batch.prompts[rows]), **extra_conditions}, self.model.device)
            return self.model.predict(x_t[rows], batch.t[rows], condition).float()

    def adapter_states(self) -> dict[str, dict[str, Tensor]]:
        """Component -> float32 state dict of the evaluation weights: the current ones, or the best ones if kept.

        Shapes as `attach.read_weights` gives them, such as A [rank, in] and B [out, rank].
        Raises StageFailed where a weight is not finite.
        """
        if self.evaluator is not None and self.evaluator.best_states:
            return self.evaluator.best_states
        return self.eval_states()

    def eval_states(self) -> dict[str, dict[str, Tensor]]:
        """Component -> float32 state dict of the evaluation weights as they are now, shaped as in `adapter_states`."""
        with self.eval_weights():
            return self._read_states()

    @contextmanager
    def eval_weights(self) -> Iterator[None]:
        """Context manager: swap in the evaluation weights; restore the training weights bit for bit on exit.

        They differ under EMA and under schedule-free optimizers.
        """
        averaged: AbstractContextManager[None] = nullcontext()
        if self.ema is not None:
            averaged = self.ema.swapped_in()
        with self.settings.optimizer.eval_weights(self.optimizer), averaged:
            yield

    @contextmanager
    def sampling_mode(self) -> Iterator[None]:
        """Context manager: put the model in the state that would be exported, to draw sample pictures.

        Restores weights, modes and random state bit for bit on exit.
        """
        devices = [torch.cuda.current_device()] if self.model.device.type == "cuda" else []
        with (self.eval_weights(), eval_mode(self.modules.values()), self.autocast(),
              torch.random.fork_rng(devices), self.speedups.for_sampling()):
            yield

    def checkpoint(self) -> Checkpoint:
        """The state to resume from. Raises StageFailed where a weight is not finite."""
        tensors: dict[str, Tensor] = {}
        for component, state in self._read_states().items():
            for name, tensor in state.items():
                tensors[f"adapter/{component}/{name}"] = tensor
        tensors |= state_tensors(self.optimizer)
        if self.ema is not None:
            tensors |= self.ema.tensors()
        if self.evaluator is not None:
            tensors |= self.evaluator.tensors()

        # no random state is stored: the seed of every draw is computed from its step and slot
        scaler = self.accelerator.scaler
        scaler_state = scaler.state_dict() if scaler else None
        values = {"optimizer": state_values(self.optimizer), "scaler": scaler_state,
                  "history": [astuple(metrics) for metrics in self.history],
                  "pieces": [flat.lengths for flat in self.flat_weights]}
        return Checkpoint(step=len(self.history), tensors=tensors, values=values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state that `checkpoint` gave, bit for bit."""
        for component, module in self.modules.items():
            prefix = f"adapter/{component}/"
            weights: dict[str, Tensor] = {}
            for name, tensor in checkpoint.tensors.items():
                if name.startswith(prefix):
                    weights[name.removeprefix(prefix)] = tensor
            write_weights(module, weights)
        for number, flat in enumerate(self.flat_weights):
            flat.split(checkpoint.values["pieces"][number], self.optimizer, number)
        load_state(self.optimizer, checkpoint.tensors, checkpoint.values["optimizer"])
        if self.ema is not None:
            self.ema.load_tensors(checkpoint.tensors)
        if self.evaluator is not None:
            self.evaluator.load_tensors(checkpoint.tensors)
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(checkpoint.values["scaler"])
        self.history = [Metrics(*row) for row in checkpoint.values["history"]]

    def _evaluate(self) -> None:
        """Compute the held-out loss of the evaluation weights if it is due, and add it to the last step's metrics."""
        if self.evaluator is None or not self.evaluator.is_due(len(self.history)):
            return
        with self.eval_weights(), eval_mode(self.modules.values()):
            loss = self.evaluator.mean_loss(lambda batch, conditions: self.loss(batch, conditions).total)
        # all processes must agree whether to stop, but unlike machines may compute other last bits: rank 0 decides
        loss = self.gradient_sync.broadcast(loss)
        self.history[-1] = replace(self.history[-1], held_out_loss=loss)
        self.evaluator.keep_best(self.history, self.eval_states)

    def _read_states(self) -> dict[str, dict[str, Tensor]]:
        """Component -> state dict of the training weights. Raises StageFailed where a weight is not finite."""
        states = {component: read_weights(module) for component, module in self.modules.items()}
        for state in states.values():
            for tensor in state.values():
                if not bool(tensor.isfinite().all()):
                    raise StageFailed(f"the adapter holds numbers that are not finite after step {len(self.history)}",
                                      fix=LOWER_RATE_FIX)
        return states

    def fused_layers(self) -> AbstractContextManager[None]:
        """Context manager: adapted layers compute by fewer operations; torch's compiler joins them by itself."""
        return nullcontext() if self.settings.compile else fused_lora(self.modules.values())

    def autocast(self) -> AbstractContextManager[Any]:
        """Context manager: run the forward pass in the recipe's precision."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def _weights(self) -> list[nn.Parameter]:
        """The trained weights as the optimizer has them."""
        weights: list[nn.Parameter] = []
        for flat in self.flat_weights:
            weights += flat.weights
        return weights

    def _check_gradient(self, norm: float, step: int) -> None:
        """Raise StageFailed where the gradient norm is not finite and no loss scaler skips the step."""
        scaler = self.accelerator.scaler
        # under fp16 an overflow only makes the scaler skip the step and halve its scale, until it falls below 1
        if math.isfinite(norm) or (scaler and scaler.get_scale() >= 1.0):
            return
        raise StageFailed(f"the gradient norm is {norm} at step {step + 1} of {self.settings.steps}",
                          fix=LOWER_RATE_FIX)


def metrics_as_json(metrics: Metrics) -> dict[str, float | None]:
    """The metrics by name, as JSON can hold them; component rates as `learning_rate.<component>`.

    None for a missing value, and for a gradient norm that overflowed under fp16, since JSON knows no infinity.
    """
    named = asdict(metrics)
    for component, rate in named.pop("learning_rates").items():
        named[f"learning_rate.{component}"] = rate
    if named["held_out_loss"] is None:
        del named["held_out_loss"]
    for name, value in named.items():
        if value is not None and not math.isfinite(value):
            named[name] = None
    return named


def _accelerator(precision: str, device: torch.device) -> Accelerator:
    """An accelerator for this precision. Raises StageFailed where the device does not support it."""
    # accelerate keeps one state per process, and refuses another precision in the same process
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    mixed = "no" if precision == "fp32" else precision
    # accelerate would let the environment change the arithmetic under the same key
    variables = sorted(name for name in os.environ if name.startswith("ACCELERATE_"))
    if variables:
        raise StageFailed(f"the environment configures accelerate ({', '.join(variables)}), but only the recipe may",
                          fix=f"unset {' '.join(variables)}")
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


def _read_numbers(losses: Sequence[Loss], norm: Tensor) -> tuple[float, float, float | None, float]:
    """The means of the micro-batches' total, instance and prior loss, and the gradient norm, by one read.

    norm: a scalar. The prior loss is None where no micro-batch has class rows.
    """
    total = torch.stack([loss.total.detach() for loss in losses]).mean()
    instance = torch.stack([loss.instance.detach() for loss in losses]).mean()
    scalars = [total, instance, norm.to(total)]
    priors = [loss.prior.detach() for loss in losses if loss.prior is not None]
    if priors:
        scalars.append(torch.stack(priors).mean())
    numbers = torch.stack(scalars).tolist()
    prior = numbers[3] if priors else None
    return numbers[0], numbers[1], prior, numbers[2]
