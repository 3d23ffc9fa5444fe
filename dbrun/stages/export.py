"""Which files leave the house? The stage `export`: the adapter in other tools' formats, and what it looks like."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters
from dbrun.adapters.attach import cast_for_inference
from dbrun.diffusion.prediction import PredictionType
from dbrun.errors import StageFailed
from dbrun.images.samples import ADAPTED_ROW, BASE_ROW, SampleSettings, write_samples
from dbrun.models.base import Model
from dbrun.models.configs import find_licence
from dbrun.models.scheduling import scheduler_changes
from dbrun.options.precision import Precision
from dbrun.recipe.checks import exports
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import prompt_cycle
from dbrun.safetensors_header import trigger_words
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.load import read_base_record
from dbrun.stages.sources import Numerics, Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base, sampling_precision
from dbrun.stages.support.cost import adapter_labels, guidance_label
from dbrun.stages.support.lowres_inputs import LowresInputs, lowres_inputs
from dbrun.stages.support.provenance import portable_recipe, provenance
from dbrun.stages.support.sample_spec import default_prompts
from dbrun.workload import Workload

if TYPE_CHECKING:
    from dbrun.formats.base import Format
    from dbrun.formats.roundtrip import Probe, ReferencePredictions

ROWS = (BASE_ROW, ADAPTED_ROW)
"""The pictures without and with the adapter. The base's are drawn first: the adapter then goes onto the same base."""


@dataclass(frozen=True)
class ExportParams:
    """formats: those to write; recipe: what of the recipe shaped the adapter, without names and places.

    instance_prompt: the subject's, those of several, or None where each picture has a prompt of its own.
    prompts, steps, guidance, seed, resolution, precision: the pictures of before_after.png; starts: what they begin
    with, None where words are enough.
    prediction, zero_terminal_snr: what was trained otherwise than in the base, and so is sampled otherwise.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"prediction": None, "zero_terminal_snr": False, "starts": None}
    WORDS: ClassVar[Mapping[str, str]] = {
        "formats": "export", "recipe": "", "instance_prompt": "subject.instance_prompt",
        "prompts": "samples.prompts", "steps": "samples.steps", "guidance": "samples.guidance", "seed": "samples.seed",
        "resolution": "images.resolution", "precision": "train.precision", "starts": "subject.images",
        "prediction": "objective.prediction", "zero_terminal_snr": "objective.zero_terminal_snr"}

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

    def scheduler_overrides(self, model: Model) -> dict[str, object]:
        """How the scheduler for the trained adapter differs from the base's."""
        return scheduler_changes(model.scheduler.config, self.prediction, self.zero_terminal_snr)


class Export(Stage[ExportParams]):
    """Write each format, read it back with its own library, compare; then draw before_after.png and loss.png."""

    NAME: ClassVar[str] = "export"
    VERSION: ClassVar[int] = 5
    delivers: ClassVar[bool] = True
    writes_formats: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load", "adapt", "train")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "peft", "safetensors",
                                            "numpy", "pillow")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.formats", "dbrun.images.grid", "dbrun.images.loss_plot",
        "dbrun.images.pixels", "dbrun.images.samples", "dbrun.models", "dbrun.safetensors_header",
        "dbrun.stages.support.base_loading", "dbrun.stages.support.inputs",
        "dbrun.stages.support.lowres_inputs", "dbrun.stages.support.provenance", "dbrun.training.device")

    def params(self, recipe: Recipe, sources: Sources) -> ExportParams:
        """The formats, the provenance, and the pictures' settings; what is left out, the base suggests."""
        samples, suits, begin = recipe.samples, sources.base.sampling, lowres_inputs(recipe, sources)
        prompts = tuple(one.instance_prompt for one in recipe.subjects_by_key.values() if one.instance_prompt)
        return ExportParams(tuple(sorted(exports.export_formats(recipe))), portable_recipe(recipe, sources),
                            prompts[0] if len(prompts) == 1 else prompts or None,
                            samples.prompts or default_prompts(recipe, sources, begin),
                            suits.steps if samples.steps is None else samples.steps,
                            suits.guidance if samples.guidance is None else samples.guidance,
                            samples.seed, recipe.images.resolution, recipe.train.precision,
                            recipe.objective.prediction, recipe.objective.zero_terminal_snr, begin)

    def item_keys(self, params: ExportParams, inputs: Mapping[str, str],
                  numerics: Numerics) -> Sequence[Mapping[str, object]]:
        """One for each picture of before_after.png, row after row."""
        # the base's own row is drawn as ever; the adapter's depends on what it was taught to predict
        taught = {n: v for n, v in (("prediction", params.prediction), ("zero_snr", params.zero_terminal_snr)) if v}
        precision = sampling_precision(params.precision, numerics)
        return [{"base": inputs["load"], "adapter": inputs["train"] if row == ADAPTED_ROW else None,
                 "prompt": prompt, "seed": params.seed + column, "steps": params.steps,
                 "guidance": params.guidance, "resolution": params.resolution, "precision": precision,
                 **(taught if row == ADAPTED_ROW else {}),
                 **(params.starts.key(column) if params.starts else {})}
                for row in ROWS for column, prompt in enumerate(params.prompts)]

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """Pictures of so many pixels in so many sampler steps, without and with the adapter, and what is written."""
        params, size = self.params(recipe, sources), cost.adapter_size(sources.base, recipe.adapt)
        count, pixels = len(ROWS) * len(params.prompts), params.resolution**2
        return Workload(count, params.steps * pixels, (pixels, size),
                        {".safetensors": size, "before_after.png": count * pixels, "loss.png": 1.0,
                         ".png": count * pixels},
                        (*adapter_labels(recipe.adapt), *params.formats, params.precision,
                         guidance_label(params.guidance)))

    def max_disk_bytes(self, ctx: StageContext[ExportParams]) -> int:
        """Each format in 32 bits, the pictures with copies, and all of it once more where it is delivered."""
        from dbrun.formats.base import formats

        params, known = ctx.params, formats()
        weights = cost.artifact_bytes(ctx.inputs["train"])
        files = sum(2 * cost.base_bytes(ctx) if known[name].LARGE else weights for name in params.formats)
        pictures = cost.picture_bytes(2 * len(params.prompts) + 1, params.resolution)
        return 2 * (files + 5 * pictures) + 2 * cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[ExportParams]) -> None:
        """Fill ctx.out; nothing in it says when or where it was made."""
        from dbrun.formats.base import formats
        from dbrun.formats.model_card import compatibility_warnings, render_card

        adapters = read_adapters(ctx.inputs["train"].path)
        _draw_before_after(ctx, adapters)
        model = load_base(ctx, "fp32")
        _write_scheduler(ctx, model)
        probe, expected = _expected_predictions(ctx, adapters, model)
        document = provenance(ctx.params.recipe, ctx.params.instance_prompt, ctx.inputs, ctx.numerics, self.libraries)
        assert ctx.base is not None
        document |= {"trigger": trigger_words(ctx.params.recipe), "licence": find_licence(ctx.base)}
        for name in ctx.params.formats:
            ctx.check_interrupt()
            _write_format(ctx, formats()[name], probe, expected, document)
        _draw_loss_plot(ctx)
        said = compatibility_warnings(model.family, ctx.params.formats, adapters)
        for line in said:
            ctx.note(line, level="warning")
        text = render_card(document, model.family, ctx.params.formats, ctx.params.prompts, said)
        (ctx.out / "README.md").write_text(text, encoding="utf-8")


def _draw_before_after(ctx: StageContext[ExportParams], adapters: Mapping[str, ComponentAdapter]) -> None:
    """Draw before_after.png and samples/: the same prompts and seeds without and with the adapter."""
    from PIL import Image

    from dbrun.images.grid import draw_grid, save_png

    params, precision = ctx.params, sampling_precision(ctx.params.precision, ctx.numerics)

    @cache
    def base() -> Model:
        return load_base(ctx, precision)

    @cache
    def adapted() -> Model:
        model = base()
        for name, attached in adapters.items():
            attached.attach_to(model.module(name))
            cast_for_inference(model.module(name), model.dtype)
        return model.with_scheduler_changes(params.scheduler_overrides(model))

    def draw(make: Callable[[], Model], column: int, folder: Path) -> None:
        picture = make().generate(params.prompts[column], seed=params.seed + column, steps=params.steps,
                                  guidance=params.guidance, resolution=params.resolution, start_image=small(column),
                                  on_step=ctx.check_interrupt)
        save_png(picture, folder / "picture.png")

    def small(column: int) -> Image.Image | None:
        if params.starts is None:
            return None
        family = read_base_record(ctx.inputs["load"]).family
        return params.starts.start_image(column, ctx.files, params.resolution, family)

    rows: dict[str, list[Image.Image]] = {row: [] for row in ROWS}
    keys = Export().item_keys(params, {name: one.digest for name, one in ctx.inputs.items()}, ctx.numerics)
    for place, key in enumerate(keys):
        ctx.check_interrupt()
        ctx.progress(place, len(keys), "pictures")
        row, column = divmod(place, len(params.prompts))
        make = partial(draw, (base, adapted)[row], column)
        rows[ROWS[row]].append(Image.open(ctx.items.get(key, make) / "picture.png"))
    begun = tuple(picture for column in range(len(params.prompts)) if (picture := small(column)))
    save_png(draw_grid((*((("small", begun),) if begun else ()), *rows.items()), params.prompts),
             ctx.out / "before_after.png")
    write_samples(ctx.out, SampleSettings(params.prompts, params.seed, params.steps, params.guidance), rows)
    ctx.progress(len(keys), len(keys), "pictures")


def _write_scheduler(ctx: StageContext[ExportParams], model: Model) -> None:
    """Write the scheduler that the adapter is to be sampled with, where that is not the base's."""
    from dbrun.formats.scheduler import FOLDER, write_scheduler

    if changes := ctx.params.scheduler_overrides(model):
        write_scheduler(ctx.out, model, changes)
        said = ", ".join(f"{key} {value}" for key, value in changes.items())
        ctx.note(f"sample with the scheduler in {FOLDER}/, not with the base's: {said}")


def _expected_predictions(ctx: StageContext[ExportParams], adapters: Mapping[str, ComponentAdapter],
                          model: Model) -> tuple[Probe, ReferencePredictions]:
    """What the trained model predicts, in 32 bits; a trained adapter that changes nothing is an error."""
    import torch

    from dbrun.formats.roundtrip import Probe, ReferencePredictions

    assert ctx.base is not None
    multiple = model.family.resolution_multiple(ctx.base)
    probe = Probe(_probe_prompt(ctx.params, adapters), multiple * max(1, min(ctx.params.resolution, 64) // multiple))
    base = probe.predict(model)
    for name, attached in adapters.items():
        attached.attach_to(model.module(name))
    expected = ReferencePredictions(base, probe.predict(model), adapters)
    initial = read_adapters(ctx.inputs["adapt"].path)
    learnt = any(not torch.equal(tensor, initial[name].state[key])
                 for name, attached in adapters.items() for key, tensor in attached.state.items())
    if not learnt:
        ctx.note("training left the adapter as it began", level="warning")
    elif not expected.effect > 0:
        raise StageFailed("the trained adapter changes no prediction",
                          fix="raise `train.learning_rate` or `train.steps`")
    return probe, expected


def _probe_prompt(params: ExportParams, adapters: Mapping[str, ComponentAdapter]) -> str:
    """A prompt that what was taught answers to: one that says the new word, where there is one."""
    prompts = (*prompt_cycle(params.instance_prompt), *params.prompts)
    words = [getattr(attached.adapter, "token", "") for attached in adapters.values()]
    return next((prompt for prompt in prompts if all(word in prompt for word in words)), prompts[0])


def _write_format(ctx: StageContext[ExportParams], form: Format, probe: Probe, expected: ReferencePredictions,
                  document: Mapping[str, object]) -> None:
    """Write one format with its provenance; it counts only once its own library has read it back."""
    from dbrun.formats.stamp import write_provenance

    model = load_base(ctx, "fp32")
    carried = {name: adapter for name, adapter in expected.adapters.items() if form.supports(model.family, name)}

    def bare() -> Model:
        return load_base(ctx, "fp32").with_scheduler_changes(ctx.params.scheduler_overrides(model))

    written = form.write(ctx.out, model.family, carried, bare)
    for name in sorted(expected.adapters.keys() - carried.keys()):
        expected.adapters[name].attach_to(model.module(name))
    form.read(ctx.out, model, tuple(carried))
    difference = expected.compare(probe.predict(model), model, form, tuple(carried))
    reached = {name: float(f"{value:.1e}") for name, value in
               (("difference", difference), ("allowed", expected.tolerance), ("effect", expected.effect))}
    for path in written:
        write_provenance(path, {**document, "self_check": {"format": form.NAME, **reached}})
    from dbrun.formats.roundtrip import describe_difference

    ctx.note(f"{form.NAME}: read back, {describe_difference(difference)}")


def _draw_loss_plot(ctx: StageContext[ExportParams]) -> None:
    from dbrun.images.grid import save_png
    from dbrun.images.loss_plot import plot_losses

    text = (ctx.inputs["train"].path / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    series = {name: [(row["step"], row[key]) for row in lines if row.get(key) is not None]
              for name, key in (("instance", "instance_loss"), ("class", "prior_loss"),
                                ("held out", "held_out_loss"))}
    save_png(plot_losses(series), ctx.out / "loss.png")
