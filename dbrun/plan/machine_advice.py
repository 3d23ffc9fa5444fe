"""Advice about a plan on this machine: training that takes hours on its CPU, cores that stay idle, idle settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from types import MappingProxyType
from typing import TYPE_CHECKING

from dbrun.events import Note
from dbrun.plan.device import available_cores, emulates_bf16
from dbrun.plan.planner import Plan, Scope, Status
from dbrun.resolve.advice import LATENT_RESOLUTION, works_at_large_resolution
from dbrun.stages.support.base_loading import has_own_memory
from dbrun.stages.support.training_length import training_length

if TYPE_CHECKING:
    from dbrun.plan.estimate import Estimate

STEP_SECONDS = 26.0
"""CPU seconds of a training step with one picture of 512 × 512 pixels and a denoiser of the size of Stable Diffusion
1.5. Measured with weights of zero in fp32 on one thread; 13 of them are the forward pass."""
SLOW_SECONDS = 2 * 3600.0
"""Seconds of training on a CPU from which a GPU is advised."""
LONG_SECONDS = 300.0
"""Seconds of training from which idle cores are worth a note: a shorter one is over before they help much."""


def machine_advice(scope: Scope, plan: Plan, known: Mapping[str, Estimate] = MappingProxyType({})) -> Iterator[Note]:
    """Yield notes about what `threads: auto` is, and about a training that is to run: on the CPU for hours, with idle
    cores, in slow numbers, or with settings that do nothing here.

    known: stage → its estimate.
    """
    pending = {stage.name for stage in plan.stages if stage.status in (Status.RUN, Status.RESUME)}
    device = scope.numerics.device
    if "train" in pending and scope.recipe.base.offload is not None and not has_own_memory(device):
        yield Note("training", f"`base.offload` does nothing here: this runs on {device}, where the weights are in CPU "
                   "memory anyway")
    if device != "cpu":
        return
    if scope.recipe.threads == "auto":
        yield Note("threads", f"`auto` is {scope.numerics.threads} on this machine; with another number of cores every "
                   "stage runs again")
    yield from _slow_bf16(scope, pending)
    if "train" not in pending:
        return
    seconds = known["train"].seconds if "train" in known else _rough_seconds(scope)
    if seconds >= SLOW_SECONDS:
        # the rough one is of the smallest large denoiser: others take several times as long
        more = "" if "train" in known else " or more"
        yield Note("training", f"on a CPU this takes about {_rough_duration(seconds)}{more}: use a machine with a GPU, "
                   "or try things out with `base: {path: embedded}`", "warning")
    if seconds >= LONG_SECONDS:
        yield from _idle_cores(scope)


def _slow_bf16(scope: Scope, pending: Set[str]) -> Iterator[Note]:
    """Warn of stages that are to compute in bf16 on a CPU that emulates it."""
    stages = {"train.precision": "train", "prior.precision": "generate-priors"}
    keys = [key for key in scope.recipe.keys_with_precision("bf16") if stages[key] in pending]
    if keys and emulates_bf16():
        yield Note(stages[keys[0]], "this CPU has no AVX-512, without which bf16 takes 10 to 50 times as long as fp32: "
                   f"write {' and '.join(f'`{key}: fp32`' for key in keys)}", "warning")


def _rough_seconds(scope: Scope) -> float:
    """Order of magnitude of the seconds of training a large base on the CPU; 0 for another base, which is quick."""
    recipe, sources, threads = scope.recipe, scope.resolved.sources, scope.numerics.threads
    if not works_at_large_resolution(sources.base):
        return 0.0
    pictures = training_length(recipe, sources).steps * recipe.train.images_per_step
    # with prior preservation a class image goes through the denoiser beside each instance image
    if recipe.prior is not None:
        pictures *= 2
    area = (recipe.images.resolution / LATENT_RESOLUTION) ** 2
    return STEP_SECONDS * area * pictures / (threads * recipe.launch.processes)


def _rough_duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 48:
        return f"{hours:.0f} hours"
    return f"{hours / 24:.0f} days"


def _idle_cores(scope: Scope) -> Iterator[Note]:
    processes, cores, threads = scope.recipe.launch.processes_per_machine, available_cores(), scope.numerics.threads
    per_process = cores // processes
    if threads < per_process:
        yield Note("training", f"`threads: {threads}` uses {processes * threads} of this machine's {cores} cores: "
                   f"`threads={per_process}` is faster, but every stage runs again")
