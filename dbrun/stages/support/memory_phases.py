"""Memory of the phases that stages have in common: text encoding, encoding of pictures, sampling, training, export.

Text encoders, denoiser and autoencoder are loaded as they are used, so a stage needs as much as its largest phase.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dbrun.formats.base import formats
from dbrun.models.base import families
from dbrun.options.precision import Precision
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.load import select_files
from dbrun.stages.sources import BaseSource
from dbrun.stages.support.base_loading import has_own_memory
from dbrun.stages.support.memory import NO_MEMORY, CountedMemory, largest
from dbrun.training.settings import TrainParams

if TYPE_CHECKING:
    from dbrun.formats.base import Format
    from dbrun.training.dry_run import DryBase, DryRun

PROBE_SIDE, PROBE_ROWS = 64, 3
"""Side in pixels and rows of the check of an export."""
CHECKPOINT_COPIES = 3
"""Copies of the training state in CPU memory while a checkpoint is written: its tensors, their bytes and the file."""


def open_dry_run(base: BaseSource, device: str, offload: str | None = None) -> DryRun:
    """A dry run of a base that is on this machine, for a device (cuda, mps or cpu). Imports torch.

    offload: the recipe's `base.offload`.
    """
    folder = base.folder
    assert folder is not None, "memory is counted from the files of the base"
    from dbrun.training.dry_run import DryRun

    family = families()[base.family]
    paths = [*folder.glob("*"), *folder.glob("*/*")]
    names = [path.relative_to(folder).as_posix() for path in paths]
    files = select_files(names, family.subfolders, base.variant)
    return DryRun(folder, family, base.variant, files, device, offload is not None and has_own_memory(device))


@contextmanager
def dry_run_of(base: BaseSource, device: str, offload: str | None) -> Iterator[DryRun]:
    """Context manager: a dry run as that of `open_dry_run`, of the published configs where the base is not here."""
    from dbrun.models.published_bases import write_published_base

    if base.folder is not None:
        yield open_dry_run(base, device, offload)
        return
    with TemporaryDirectory() as place:
        folder = Path(place) / "base"
        write_published_base(base.family, folder)
        yield open_dry_run(replace(base, folder=folder, variant=None), device, offload)


def encode_prompts_phase(base: DryBase, *kept: str, encoders: Sequence[str] = (), rest: int = 0) -> CountedMemory:
    """Encoding of one prompt. kept: components that are in memory besides the text encoders; rest: further bytes.

    encoders: the text encoders that run, by default all.
    """
    running = tuple(encoders) or base.dry_run.family.text_encoders
    activations, _ = base.encode_prompt(running)
    names = dict.fromkeys((*running, *kept))
    return CountedMemory(base.weight_bytes(*names), activations, rest + base.kernel_bytes(*running))


def encode_images_phase(base: DryBase, side: int, rest: int = 0) -> CountedMemory:
    """Encoding of one picture of side × side pixels."""
    activations, _ = base.encode_image(side)
    names = tuple(_autoencoder(base))
    return CountedMemory(base.weight_bytes(*names), activations, rest + base.kernel_bytes(*names))


def quantising_phase(base: DryBase, *kept: str, rest: int = 0) -> CountedMemory:
    """The denoiser before its layers are quantised, in CPU memory. kept: components that are there besides."""
    if base.quantise is None or base.dry_run.device != "cpu":
        return NO_MEMORY
    denoiser = base.dry_run.family.components["denoiser"]
    return CountedMemory(base.dry_run.weight_bytes(base.precision, *dict.fromkeys((*kept, denoiser))), 0, rest)


def sampling_phase(base: DryBase, side: int, guidance: float, *kept: str, rest: int = 0) -> CountedMemory:
    """Drawing of a block of pictures. kept: components that are in memory besides denoiser and autoencoder."""
    rows = base.dry_run.family.block_size(side)
    # guidance runs the denoiser with the prompt and without it, in one batch
    if guidance > 1:
        rows *= 2
    denoiser = base.dry_run.family.components["denoiser"]
    names = dict.fromkeys((denoiser, *_autoencoder(base), *kept))
    kernels = base.kernel_bytes(denoiser, *_autoencoder(base))
    drawing = CountedMemory(base.weight_bytes(*names), base.sample(side, rows), rest + kernels)
    if denoiser in kept:
        return drawing
    return largest((quantising_phase(base, *names, rest=rest), drawing))


def preprocess_memory(dry_run: DryRun, side: int, crops: int, prompts: int, encoders: Sequence[str],
                      precision: Precision) -> CountedMemory:
    """Encoding of all crops, in 32 bits, and then of all prompts.

    prompts: 0 where all text encoders train; encoders: the others; precision: theirs.
    """
    base = dry_run.open("fp32")
    _, crop_bytes = base.encode_image(side)
    phases = [encode_images_phase(base, side)]
    collected = crops * crop_bytes
    if prompts:
        text_base = base if precision == "fp32" else dry_run.open(precision)
        _, prompt_bytes = text_base.encode_prompt(encoders)
        collected += prompts * prompt_bytes
        phases.append(encode_prompts_phase(text_base, encoders=encoders))
    # at the end rank 0 holds all results and the bytes of the file
    if dry_run.device == "cpu":
        weights = max(phase.weights for phase in phases)
        phases.append(CountedMemory(weights, 0, 2 * collected))
    return largest(phases)


def train_memory(dry_run: DryRun, recipe: Recipe, params: TrainParams, *, rows: int, prompts: int,
                 cached_prompts: int, crops: int) -> CountedMemory:
    """Training: a micro-batch, the checkpoint, samples and the held-out loss, whichever needs the most.

    rows: of a micro-batch, class rows included; prompts: distinct ones among them; cached_prompts: all that are kept
    encoded; crops: encoded pictures.
    """
    base = dry_run.open(params.precision, recipe.adapt.components, params.quantise)
    family = dry_run.family
    side, trained = recipe.images.resolution, base.trained_bytes
    frozen = base.frozen_encoders
    on_cpu = dry_run.device == "cpu"

    # the state of the optimizer, the averages, the gradients of many small weights side by side, and the adapters'
    # initial weights, as long as the stage runs
    states = params.optimizer.STATES_PER_WEIGHT + (params.ema is not None)
    rest = states * trained
    if params.optimizer.ELEMENTWISE:
        rest += base.gradient_buffer_bytes
    if on_cpu:
        # on other devices encoded prompts wait in CPU memory, too
        if frozen:
            rest += cached_prompts * base.encode_prompt(frozen)[1]
        copies = 1 + (params.held_out is not None)
        rest += copies * trained + crops * base.encode_image(side)[1]

    names = [family.components["denoiser"], *base.learning_encoders]
    draws_samples = recipe.samples.every is not None
    # once loaded for samples, the autoencoder stays
    kept = (*names, *_autoencoder(base)) if draws_samples else tuple(names)
    weights = base.weight_bytes(*dict.fromkeys(kept))

    step = base.train_step(params, side, rows, prompts, checkpointing=recipe.train.gradient_checkpointing)
    # with accumulation the sum of the gradients so far is there from the second micro-batch on
    gradients = trained if params.accumulation > 1 else 0
    kernels = base.kernel_bytes(*names)
    # beside a graph's own memory a plain step is computed once, which it is compared with
    steps = 2 if params.graph and dry_run.device == "cuda" else 1
    phases = [quantising_phase(base, *kept), CountedMemory(weights, steps * step.peak, rest + gradients + kernels)]
    if on_cpu:
        phases.append(CountedMemory(weights, 0, rest + CHECKPOINT_COPIES * (1 + states) * trained))
    averages = trained if params.ema is not None else 0
    if draws_samples:
        guidance = recipe.samples.guidance
        phases.append(sampling_phase(base, side, 2.0 if guidance is None else guidance, *kept, rest=rest + averages))
        # the others are in memory once, one after the other
        for encoder in frozen:
            phases.append(encode_prompts_phase(base, *kept, encoders=(encoder,), rest=rest + averages))
    if params.held_out is not None:
        phases.append(CountedMemory(weights, base.predict(side, params.held_out.draws), rest + averages + kernels))
    return largest(phases)


def export_memory(dry_run: DryRun, recipe: Recipe, names: Iterable[str], guidance: float,
                  base: DryBase) -> CountedMemory:
    """Export: the pictures, the check of each format, and large formats as they are written and read back.

    names: of the formats; base: with the adapters attached.
    """
    family, side = dry_run.family, recipe.images.resolution
    trained = base.trained_bytes
    # the adapters' weights as files hold them stay in CPU memory
    on_cpu = dry_run.device == "cpu"
    rest = trained if on_cpu else 0
    chosen = [formats()[name] for name in names]
    is_exact = base.precision == "fp32" and base.quantise is None
    holds_all = any(form.HOLDS_ALL for form in chosen)
    # a whole pipeline is written from what is in memory, if that is in 32 bits
    kept = base.learning_encoders
    if holds_all and is_exact:
        kept = family.text_encoders
    phases = [sampling_phase(base, side, guidance, *kept, rest=rest)]
    # those that do not learn are loaded one after the other, those that do stay
    groups: list[tuple[str, ...]] = [(encoder,) for encoder in base.frozen_encoders]
    if base.learning_encoders:
        groups.append(base.learning_encoders)
    for encoders in groups:
        phases.append(encode_prompts_phase(base, *kept, encoders=encoders, rest=rest))
    # the check computes with small pictures; a whole pipeline that is read back has all components
    held = tuple(dict.fromkeys((family.components["denoiser"], *_autoencoder(base), *kept)))
    checked = family.weight_components if holds_all else held
    probe_side = min(side, PROBE_SIDE)
    activations = max(base.predict(probe_side, PROBE_ROWS), base.encode_image(probe_side, PROBE_ROWS)[0])
    weights = base.weight_bytes(*checked)
    exact = {name: dry_run.weight_bytes("fp32", name) for name in family.weight_components}
    carriers = [family.components[name] for name in base.components if name in family.components]
    if base.quantise is not None and on_cpu and any(form.ADDS_TO_WEIGHTS for form in chosen):
        # these are made on the base's own weights
        weights = sum(exact[name] for name in checked)
    phases.append(CountedMemory(weights, activations, rest + base.kernel_bytes(*checked)))
    for form in chosen:
        if form.LARGE:
            phases.append(_writing_phase(base, form, held, exact, carriers, rest))
    return largest(phases)


def _writing_phase(base: DryBase, form: Format, held: Sequence[str], exact: Mapping[str, int],
                   carriers: Sequence[str], rest: int) -> CountedMemory:
    """A large format as it is written. held: components in memory; exact: bytes of each component in 32 bits;
    carriers: components with adapters.
    """
    weights = 0 if base.quantise is not None else base.weight_bytes(*held)
    is_exact = base.precision == "fp32" and base.quantise is None
    on_cpu = base.dry_run.device == "cpu"
    if not on_cpu:
        # merged where the weights are, if these are in 32 bits; else in CPU memory
        merged = sum(exact[name] for name in carriers)
        return CountedMemory(weights, 0, merged if is_exact else 0)
    if not is_exact:
        # a second base beside the first
        weights += sum(exact.values()) if form.HOLDS_ALL else sum(exact[name] for name in carriers)
    return CountedMemory(weights, 0, rest + form.peak_copies(exact, carriers))


def _autoencoder(base: DryBase) -> Iterator[str]:
    """The autoencoder's name, where the family has one."""
    if base.dry_run.family.autoencoder:
        yield base.dry_run.family.autoencoder
