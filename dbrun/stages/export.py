"""The stage `export`: writes the adapter in other tools' formats, checks each, and draws comparison pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters
from dbrun.diffusion.prediction import PredictionType
from dbrun.errors import StageFailed
from dbrun.images.samples import ADAPTED_ROW
from dbrun.models.base import Model
from dbrun.models.configs import find_licence
from dbrun.models.prompt_encoding import KnownOutputs, frozen_encoders, learning_encoders
from dbrun.models.scheduling import scheduler_changes
from dbrun.naming import METRICS_FILE
from dbrun.options.packages import OptionalPackage
from dbrun.options.precision import Precision
from dbrun.recipe.checks import exports
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import prompt_cycle
from dbrun.safetensors_header import trigger_words
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Numerics, Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base, quantisation_packages, sampling_numerics, sampling_precision
from dbrun.stages.support.before_after import ROWS, draw_before_after
from dbrun.stages.support.candidates import adapter_stage, read_selection
from dbrun.stages.support.checked_formats import (
    FormatCheck,
    encode_once,
    exact_base,
    write_adapter_formats,
    write_large_formats,
)
from dbrun.stages.support.cost import adapter_labels, denoiser_labels, guidance_label
from dbrun.stages.support.drawing import picture_key
from dbrun.stages.support.lowres_inputs import LowresInputs, lowres_inputs
from dbrun.stages.support.memory import CountedMemory
from dbrun.stages.support.memory_advice import offload_advice, precision_advice, quantise_advice, resolution_advice
from dbrun.stages.support.memory_phases import export_memory
from dbrun.stages.support.provenance import portable_recipe, provenance
from dbrun.stages.support.sample_spec import block_size, default_prompts, sampler_settings
from dbrun.workload import Workload

if TYPE_CHECKING:
    from dbrun.formats.model_card import SamplePictures
    from dbrun.formats.roundtrip import Probe, ReferencePredictions
    from dbrun.training.dry_run import DryRun


@dataclass(frozen=True)
class ExportParams:
    """The params of the stage `export`.

    formats: names of the export formats, sorted; recipe: what `portable_recipe` gives; instance_prompt: the subject's,
    a tuple for several subjects, None where each picture has its own. prompts, steps, guidance, seed, resolution,
    precision: of the pictures in before_after.png; starts: the pictures that they start from, None for a base that
    draws from text alone. prediction, zero_terminal_snr: the objective's changes to the base's scheduler; quantise:
    number format of the denoiser's linear layers in pictures and comparisons, None for precision; deterministic:
    `train.deterministic`; block: number of pictures drawn at once.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"prediction": None, "zero_terminal_snr": False, "starts": None,
                                              "quantise": None, "deterministic": False, "block": 1}
    WORDS: ClassVar[Mapping[str, str]] = {
        "formats": "export", "recipe": "", "instance_prompt": "subject.instance_prompt",
        "prompts": "samples.prompts", "steps": "samples.steps", "guidance": "samples.guidance", "seed": "samples.seed",
        "resolution": "images.resolution", "precision": "train.precision", "starts": "subject.images",
        "prediction": "objective.prediction", "zero_terminal_snr": "objective.zero_terminal_snr",
        "quantise": "base.quantise", "deterministic": "train.deterministic", "block": "pictures drawn at once"}

    formats: tuple[str, ...]
    recipe: Mapping[str, object]
    instance_prompt: str | tuple[str, ...] | None
    prompts: tuple[str, ...]
    steps: int
    guidance: float
    seed: int
    resolution: int
    precision: Precision
    prediction: PredictionType | None = None
    zero_terminal_snr: bool = False
    starts: LowresInputs | None = None
    quantise: str | None = None
    deterministic: bool = False
    block: int = 1

    def scheduler_overrides(self, model: Model) -> dict[str, object]:
        """The scheduler config entries that differ from the base's for the trained adapter."""
        return scheduler_changes(model.scheduler.config, self.prediction, self.zero_terminal_snr)


class Export(Stage[ExportParams]):
    """Writes each format, reads it back with its own library and compares; draws before_after.png and loss.png."""

    NAME: ClassVar[str] = "export"
    # 8: its pictures are drawn in blocks, whose lowest bits are not those of pictures drawn one by one
    VERSION: ClassVar[int] = 8
    delivers: ClassVar[bool] = True
    writes_formats: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load", "adapt", "train", "select")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "peft", "safetensors",
                                            "numpy", "pillow")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.formats", "dbrun.images.grid", "dbrun.images.loss_plot",
        "dbrun.images.pixels", "dbrun.images.samples", "dbrun.models", "dbrun.safetensors_header",
        "dbrun.stages.support.base_loading", "dbrun.stages.support.before_after",
        "dbrun.stages.support.checked_formats", "dbrun.stages.support.drawing", "dbrun.stages.support.inputs",
        "dbrun.stages.support.lowres_inputs", "dbrun.stages.support.provenance", "dbrun.training.device")

    def params(self, recipe: Recipe, sources: Sources) -> ExportParams:
        """The formats, the provenance, and the picture settings; what the recipe leaves out, the base's family sets."""
        samples, starts = recipe.samples, lowres_inputs(recipe, sources)
        own = tuple(one.instance_prompt for one in recipe.subjects_by_key.values() if one.instance_prompt)
        instance_prompt: str | tuple[str, ...] | None = own or None
        if len(own) == 1:
            instance_prompt = own[0]
        steps, guidance = sampler_settings(recipe, sources)
        return ExportParams(
            formats=tuple(sorted(exports.export_formats(recipe))),
            recipe=portable_recipe(recipe, sources),
            instance_prompt=instance_prompt,
            prompts=samples.prompts or default_prompts(recipe, sources, starts),
            steps=steps,
            guidance=guidance,
            seed=samples.seed,
            resolution=recipe.images.resolution,
            precision=recipe.train.resolved_precision,
            prediction=recipe.objective.prediction,
            zero_terminal_snr=recipe.objective.zero_terminal_snr,
            starts=starts,
            quantise=recipe.base.quantise,
            deterministic=recipe.train.deterministic,
            block=block_size(recipe, sources))

    def required_packages(self, params: ExportParams) -> tuple[OptionalPackage, ...]:
        """The package of the quantisation, if there is one."""
        return quantisation_packages(params.quantise)

    def key_numerics(self, params: ExportParams, numerics: Numerics) -> Mapping[str, str]:
        """The precision in which its pictures are drawn."""
        return sampling_numerics(params.precision, numerics)

    def item_keys(self, params: ExportParams, inputs: Mapping[str, str],
                  numerics: Numerics) -> Sequence[Mapping[str, object]]:
        """One key for each picture of before_after.png, row after row."""
        keys: list[Mapping[str, object]] = []
        for row in ROWS:
            # no adapter in the base's row: it is drawn once for all trainings on this base
            adapter = inputs[adapter_stage(inputs)] if row == ADAPTED_ROW else None
            for column, prompt in enumerate(params.prompts):
                key = picture_key(params, numerics, base=inputs["load"], adapter=adapter, prompt=prompt,
                                  seed=params.seed + column)
                if params.starts:
                    key |= params.starts.key(column)
                keys.append(key)
        return keys

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The number of pictures, for each its sampler steps times pixels, and the size of the files."""
        params, size = self.params(recipe, sources), cost.adapter_size(sources.base, recipe.adapt)
        count, pixels = len(ROWS) * len(params.prompts), params.resolution**2
        disk = {".safetensors": size, "before_after.png": count * pixels, "loss.png": 1.0, ".png": count * pixels}
        like = (*adapter_labels(recipe.adapt), *params.formats, params.precision, f"blocks of {params.block}",
                guidance_label(params.guidance), *denoiser_labels(recipe.base))
        return Workload(count, params.steps * pixels, (pixels * params.block, size), disk, like)

    def count_memory(self, recipe: Recipe, sources: Sources, dry_run: DryRun) -> CountedMemory:
        """The pictures, the check of each format, and the large formats while they are written and read back."""
        params = self.params(recipe, sources)
        precision = sampling_precision(params.precision, Numerics(dry_run.device, 0))
        base = dry_run.open(precision, recipe.adapt.components, params.quantise)
        return export_memory(dry_run, recipe, params.formats, params.guidance, base)

    def memory_advice(self, recipe: Recipe, device: str) -> tuple[str, ...]:
        """The large formats that the recipe names, blocks in CPU memory, then what also trains anew."""
        from dbrun.formats.base import formats

        known, chosen = formats(), exports.export_formats(recipe)
        large = sorted((name for name in chosen if known[name].LARGE), key=lambda name: known[name].POSITION)
        # the smallest of them where nothing else is left
        spare = [f"`{name}`" for name in large[len(large) == len(chosen):]]
        leave_out = (f"leave {' and '.join(spare)} out of `export`",) if spare and recipe.export else ()
        # on a CPU large formats are merged in a second base, of 32 bits
        fewer_bits = () if large and device == "cpu" else precision_advice(recipe)
        costly = (*fewer_bits, *quantise_advice(recipe, device), *resolution_advice(recipe))
        return (*leave_out, *offload_advice(recipe, device), *(f"{advice}, which trains anew" for advice in costly))

    def max_disk_bytes(self, ctx: StageContext[ExportParams]) -> int:
        """Each format in 32 bits and the pictures with copies, all of it twice: in the store and delivered."""
        from dbrun.formats.base import formats

        params, known_formats = ctx.params, formats()
        weights = cost.artifact_bytes(ctx.inputs["adapt"])
        files = 0
        for name in params.formats:
            # a large format holds the whole base, which may be stored in 16 bits
            files += 2 * cost.base_bytes(ctx) if known_formats[name].LARGE else weights
        pictures = cost.picture_bytes(2 * len(params.prompts) + 1, params.resolution)
        return 2 * (files + 5 * pictures) + 2 * cost.OVERHEAD_BYTES

    def delivered_names(self, files: Iterable[str], run_name: str) -> Mapping[str, str]:
        """The kohya file is called by the run's name, which programs show; other files keep their names."""
        from dbrun.formats.run_name import delivered_names

        return delivered_names(files, run_name)

    def write_run_name(self, copy: Path, run_name: str, names: Mapping[str, str]) -> bool:
        """Write the name into the headers of adapters and into the model card."""
        from dbrun.formats.run_name import write_run_name

        return write_run_name(copy, run_name, names)

    def run(self, ctx: StageContext[ExportParams]) -> None:
        """Write the formats, pictures and model card. No file says when or where it was made."""
        from dbrun.formats.base import formats
        from dbrun.formats.model_card import compatibility_warnings, layer_warnings, render_card

        adapters, known_formats = read_adapters(ctx.inputs[adapter_stage(ctx.inputs)].path), formats()
        # one base for everything: each part of the work leaves it untouched, bit for bit
        precision = sampling_precision(ctx.params.precision, ctx.numerics)
        model = load_base(ctx, precision, quantise=ctx.params.quantise, deterministic=ctx.params.deterministic)
        probe = _make_probe(ctx, model, adapters)
        frozen, kept = frozen_encoders(model.family, adapters), _kept_encoders(ctx.params, model, adapters)
        known = encode_once(model, (*ctx.params.prompts, "", probe.prompt), frozen, kept)
        digests = {name: artifact.digest for name, artifact in ctx.inputs.items()}
        draw_before_after(ctx, model, adapters, self.item_keys(ctx.params, digests, ctx.numerics), known, kept)
        _write_scheduler(ctx, model)
        packages = tuple(package.name for package in self.required_packages(ctx.params))
        document = provenance(ctx.params.recipe, ctx.params.instance_prompt, ctx.inputs, ctx.numerics,
                              (*self.libraries, *packages))
        assert ctx.base is not None
        document |= {"trigger": trigger_words(ctx.params.recipe), "licence": find_licence(ctx.base)}
        if "select" in ctx.inputs:
            # the recipe in the document trains on to its last step
            document["selected"] = read_selection(ctx.inputs["select"].path)
        check = FormatCheck(probe, _expected_predictions(ctx, adapters, model, probe, known()), known(),
                            ctx.params.scheduler_overrides(model), document)

        forms = [known_formats[name] for name in sorted(ctx.params.formats)]
        on_own_weights = [form for form in forms if ctx.params.quantise is not None and form.ADDS_TO_WEIGHTS]
        others = [form for form in forms if form not in on_own_weights]
        # adapters first: reading whole components back replaces the base's
        write_adapter_formats(ctx, model, [form for form in others if not form.LARGE], check)
        write_large_formats(ctx, model, [form for form in others if form.LARGE], check)
        # then what quantised weights cannot take
        if on_own_weights:
            ctx.note("loading the base's original weights into CPU memory, for the formats that change them")
            model = exact_base(ctx, model)
            known = encode_once(model, (probe.prompt,), frozen)
            check = replace(check, expected=_expected_predictions(ctx, adapters, model, probe, known()), known=known())
            write_adapter_formats(ctx, model, [form for form in on_own_weights if not form.LARGE], check)
            write_large_formats(ctx, model, [form for form in on_own_weights if form.LARGE], check)
        _draw_loss_plot(ctx)
        warnings = compatibility_warnings(model.family, ctx.params.formats, adapters)
        for line in warnings:
            ctx.note(line, level="warning")
        cautions = (*warnings, *layer_warnings(model.family, ctx.params.formats, adapters))
        text = render_card(document, model.family, ctx.params.formats, _sample_pictures(ctx, model), cautions)
        (ctx.out / "README.md").write_text(text, encoding="utf-8")


def _sample_pictures(ctx: StageContext[ExportParams], model: Model) -> SamplePictures:
    """How the pictures were drawn, for the model card."""
    from dbrun.formats.model_card import SamplePictures

    params = ctx.params
    changes = params.scheduler_overrides(model)
    scheduler = type(model.with_scheduler_changes(changes).sampling_scheduler()).__name__
    return SamplePictures(params.prompts, params.seed, params.steps, params.guidance, params.resolution, scheduler,
                          has_scheduler=bool(changes))


def _write_scheduler(ctx: StageContext[ExportParams], model: Model) -> None:
    """Write the scheduler that the adapter was trained for, where it differs from the base's."""
    from dbrun.formats.scheduler import FOLDER, write_scheduler

    changes = ctx.params.scheduler_overrides(model)
    if not changes:
        return
    write_scheduler(ctx.out, model, changes)
    listed = ", ".join(f"{key} {value}" for key, value in changes.items())
    ctx.note(f"sample with the scheduler in {FOLDER}/, not with the base's: {listed}")


def _kept_encoders(params: ExportParams, model: Model, adapters: Mapping[str, ComponentAdapter]) -> tuple[str, ...]:
    """Text encoders that are needed again after the pictures: those with adapters, or all for a whole pipeline."""
    import torch

    from dbrun.formats.base import formats

    # merged in 16 bits a pipeline is written from another base, in 32
    is_exact = model.dtype == torch.float32 and params.quantise is None
    if is_exact and any(formats()[name].HOLDS_ALL for name in params.formats):
        return model.family.text_encoders
    return learning_encoders(model.family, adapters)


def _make_probe(ctx: StageContext[ExportParams], model: Model, adapters: Mapping[str, ComponentAdapter]) -> Probe:
    """The probe input of the check."""
    from dbrun.formats.roundtrip import Probe

    assert ctx.base is not None
    multiple = model.family.resolution_multiple(ctx.base)
    # about 64 pixels: enough to see a difference, and quick also for a large base on a CPU
    side = multiple * max(1, min(ctx.params.resolution, 64) // multiple)
    return Probe(_probe_prompt(ctx.params, adapters), side)


def _expected_predictions(ctx: StageContext[ExportParams], adapters: Mapping[str, ComponentAdapter], model: Model,
                          probe: Probe, known: KnownOutputs) -> ReferencePredictions:
    """The predictions of base and trained model for the probe. model: the base, untouched afterwards.

    Raises StageFailed where the adapter was trained but changes no prediction.
    """
    import torch

    from dbrun.formats.roundtrip import measure

    expected = measure(probe, model, adapters, known)
    initial = read_adapters(ctx.inputs["adapt"].path)
    has_learnt = False
    for name, attached in adapters.items():
        for key, tensor in attached.state.items():
            has_learnt |= not torch.equal(tensor, initial[name].state[key])
    # unchanged weights may be what the recipe asks for; changed weights without an effect are a fault
    if not has_learnt:
        ctx.note("training did not change the adapter's weights", level="warning")
    elif not expected.effect > 0:
        raise StageFailed("the trained adapter changes no prediction",
                          fix="raise `train.learning_rate` or `train.steps`")
    return expected


def _probe_prompt(params: ExportParams, adapters: Mapping[str, ComponentAdapter]) -> str:
    """A prompt that the trained adapters have an effect on: one with all new words, if there is one."""
    prompts = (*prompt_cycle(params.instance_prompt), *params.prompts)
    words = [getattr(attached.adapter, "token", "") for attached in adapters.values()]
    for prompt in prompts:
        if all(word in prompt for word in words):
            return prompt
    return prompts[0]


def _draw_loss_plot(ctx: StageContext[ExportParams]) -> None:
    """Draw loss.png from the metrics that `train` wrote."""
    from dbrun.images.grid import save_png
    from dbrun.images.loss_plot import plot_losses

    text = (ctx.inputs["train"].path / METRICS_FILE).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    series: dict[str, list[tuple[int, float]]] = {}
    for name, key in (("instance", "instance_loss"), ("class", "prior_loss"), ("held out", "held_out_loss")):
        # only some steps have a held-out loss
        series[name] = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    save_png(plot_losses(series), ctx.out / "loss.png")
