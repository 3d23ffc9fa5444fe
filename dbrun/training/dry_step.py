"""One training step without optimizer, on a model of fake tensors: it counts memory, and computes no number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from dbrun.models.base import Model
from dbrun.training.batches import Batch
from dbrun.training.live_memory import LiveMemory, count_saved
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import PromptEncoder
from dbrun.training.settings import TrainParams
from dbrun.training.speedups import PLAIN

# the operations of a denoiser that autocast runs in 32 bits on a GPU, but not on a CPU
# (docs.pytorch.org/docs/stable/amp.html, "CUDA Ops that can autocast to float32")
WIDENED_ON_GPU = frozenset({
    torch.layer_norm, torch.group_norm, torch.softmax, functional.layer_norm, functional.group_norm,
    functional.softmax, Tensor.softmax})


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one forward and backward pass. peak: most alive at once, without what was there before; saved: what
    autograd saves in the forward pass, without parameters.
    """

    peak: int
    saved: int


class DryTrainer(Trainer):
    """The loss of a training without its optimizer, whose constructor would read the weights.

    model: with adapters attached, all tensors fake; device: cuda, mps or cpu, whose autocast is counted; dtype: of
    autocast.
    """

    def __init__(self, model: Model, components: Sequence[str], conditions: PromptEncoder, settings: TrainParams,
                 base_prompt_encoder: PromptEncoder | None, device: str, dtype: torch.dtype) -> None:
        # not the constructor of the base class: the loss reads nothing else
        self.model, self.prompt_encoder, self.settings = model, conditions, settings
        self.base_prompt_encoder, self.process = base_prompt_encoder, model.diffusion_process()
        self.modules: Mapping[str, nn.Module] = {name: model.module(name).train() for name in components}
        self.device, self.dtype, self.speedups = device, dtype, PLAIN

    def autocast(self) -> Any:
        """Context manager: autocast as the device does it, on the fake tensors, which are on the CPU."""
        return emulated_autocast(self.device, self.dtype)

    def count(self, batch: Batch) -> StepMemory:
        """Bytes of the forward and backward pass of a micro-batch."""
        parameters = [parameter for module in self.modules.values() for parameter in module.parameters()]
        with self.fused_layers():
            with LiveMemory() as live:
                self.loss(batch).total.backward()  # type: ignore[no-untyped-call]
            for parameter in parameters:
                parameter.grad = None
            with count_saved(parameters) as saved:
                self.loss(batch)
        return StepMemory(live.peak, saved.nbytes)


@contextmanager
def emulated_autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Context manager: autocast to dtype as a device (cuda, mps or cpu) does it, for fake tensors on the CPU."""
    if dtype == torch.float32:
        yield
        return
    with torch.autocast("cpu", dtype=dtype), _widening(device, dtype):
        yield


def recompute_as_on(device: str, dtype: torch.dtype, model: Model) -> None:
    """Let gradient checkpointing recompute the blocks under the emulated dtypes of the device.

    Checkpointing restores autocast by itself, but not this emulation: without it the recomputed tensors would have
    other dtypes than the saved ones. The model must have checkpointing turned on already.
    """
    def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        return nullcontext(), _widening(device, dtype)

    for module in model.loaded_modules().values():
        part: Any
        for part in module.modules():
            # diffusers' name and that of transformers
            if hasattr(part, "_gradient_checkpointing_func"):
                part._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, context_fn=contexts)


def _widening(device: str, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Context manager: `_Widen` where autocast to dtype on this device does it."""
    if device == "cuda" and dtype != torch.float32:
        return _Widen()
    return nullcontext()


class _Widen(TorchFunctionMode):
    """Context manager: run the `WIDENED_ON_GPU` operations on float32 copies of their 16-bit arguments."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func not in WIDENED_ON_GPU:
            return func(*args, **named)
        wide = [_as_float32(value) for value in args]
        wide_named = {name: _as_float32(value) for name, value in named.items()}
        with torch.autocast("cpu", enabled=False):
            return func(*wide, **wide_named)


def _as_float32(value: Any) -> Any:
    """A tensor of real numbers as float32, anything else unchanged."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value
