"""Host work of a training step beside the model, over many small tensors, and its waits for the device.

    python tests/bench/host_work.py [--tensors 1120] [--steps 60]

prints JSON; `step_profile.py` runs it by turns and makes a table. The denoiser is a fake one, which only hands a
gradient to each adapter tensor; what that takes is left out. The tensors are small, so that calls are measured and not
arithmetic. Waits are counted on torch's device `meta` in place of a GPU: numbers that are read, and copies to or from
the device that are not asynchronous.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])

import torch
from bench.rounds import Numbers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from train_settings import train_settings

from dbrun.diffusion.ddpm import DiffusionProcess
from dbrun.options.ema import Ema
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.training.batches import Batch
from dbrun.training.loop import Trainer

DEVICE = "meta"
ROWS, NUMBERS = 2, 64
"""Rows of a micro-batch, half of them class rows; numbers of an adapter tensor."""


class HandOver(torch.autograd.Function):
    """The identity, whose backward pass gives every parameter a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        """x as it is."""
        ctx.save_for_backward(*parameters)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """New tensors, which autograd can keep as they are."""
        return (None, *[torch.full_like(parameter, 1e-3) for parameter in ctx.saved_tensors])


class FakeModel:
    """What a trainer uses of a base: a denoiser with so many adapter tensors."""

    def __init__(self, tensors: int, device: str) -> None:
        self.device, self.dtype = torch.device(device), torch.float32
        self.denoiser = nn.ParameterList(nn.Parameter(torch.zeros(4, NUMBERS // 4, device=device))
                                         for _ in range(tensors))
        # to list them takes longer than to hand them over
        self.weights = list(self.denoiser)

    def diffusion_process(self) -> DiffusionProcess:
        """The process with diffusers' default betas."""
        return DiffusionProcess.from_config({})

    def module(self, component: str) -> nn.Module:
        """The denoiser."""
        return self.denoiser

    def loaded_modules(self) -> Mapping[str, nn.Module]:
        """The denoiser alone."""
        return {"denoiser": self.denoiser}

    def predict(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The noisy sample [B, C, h, w]."""
        return HandOver.apply(x_t, *self.weights)


def make_trainer(tensors: int, device: str = "cpu", *, ema: bool = False) -> Trainer:
    """A trainer of the fake model, with AdamW, clipping and class rows."""
    settings = train_settings(steps=10**6, learning_rate=1e-4, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                              schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0,
                              ema=Ema() if ema else None)
    model: Any = FakeModel(tensors, device)
    return Trainer(model, ("denoiser",), lambda prompts: {}, settings)


def make_batch() -> Batch:
    """Noise as latents of SDXL at 64 x 64 pixels, in CPU memory, as the batches of a training are."""
    x0 = torch.randn(ROWS, 4, 8, 8)
    return Batch(x0, torch.randn_like(x0), torch.tensor([10, 900]), (0, 1), ROWS // 2)


def host_milliseconds(tensors: int, steps: int, *, ema: bool = False) -> float:
    """Median milliseconds of CPU time that a step takes outside the denoiser's forward and backward pass."""
    trainer, batch = make_trainer(tensors, ema=ema), make_batch()
    inside = 0.0

    def timed(compute: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any) -> Any:
            nonlocal inside
            start = time.process_time()
            result = compute(*words)
            inside += time.process_time() - start
            return result

        return call

    model: Any = trainer.model
    model.predict = timed(model.predict)
    trainer.accelerator.backward = timed(trainer.accelerator.backward)
    taken: list[float] = []
    for _ in range(steps):
        start, inside = time.process_time(), 0.0
        trainer.step([batch])
        taken.append(time.process_time() - start - inside)
    # the first steps make the optimizer's state
    return 1e3 * median(taken[steps // 4:])


class CountedWaits(TorchDispatchMode):
    """Context manager: count what makes the host wait for the device. Numbers that are read are 1.

    copies: those that wait; queued: those that do not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.copies, self.queued = 0, list[str](), list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and count it where the host waits."""
        named = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == DEVICE:
            self.reads += 1
            return args[0].dtype == torch.bool or 1.0
        result = func(*args, **named)
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            copies = self.queued if named.get("non_blocking", False) else self.copies
            if source.device != result.device:
                copies.append(f"{source.device} -> {result.device} {list(source.shape)}")
        return result


class _OneRead(TorchFunctionMode):
    """Context manager: a tensor that becomes a list is read once, and not once for each number."""

    def __init__(self, waits: CountedWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function, or give a list of ones."""
        if func is Tensor.tolist and args[0].device.type == DEVICE:
            self.waits.reads += 1
            return [1.0] * args[0].numel()
        return func(*args, **(kwargs or {}))


def count_waits(tensors: int) -> CountedWaits:
    """The waits of one step on the device."""
    trainer, batch = make_trainer(tensors, DEVICE), make_batch()
    for _ in range(2):
        # the first step makes the optimizer's state
        with CountedWaits() as waits, _OneRead(waits):
            trainer.step([batch])
    return waits


def measure(tensors: int, steps: int) -> Numbers:
    """Milliseconds without and with averages, and the waits and copies of a step."""
    waits = count_waits(tensors)
    return {"host ms a step": host_milliseconds(tensors, steps),
            "host ms a step, with EMA": host_milliseconds(tensors, steps, ema=True),
            "numbers read a step": waits.reads, "copies that wait a step": len(waits.copies),
            "queued copies a step": len(waits.queued)}


def main() -> None:
    """Measure, and print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=1120)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    # the CPU time of several threads is no host time
    torch.set_num_threads(1)
    print(json.dumps(measure(given.tensors, given.steps)))


if __name__ == "__main__":
    main()
