"""Which files leave the house? The stage `export`: the adapter in other tools' formats, and what it looks like."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import Attached, read_artifact
from dbrun.adapters.attach import settle
from dbrun.diffusion.prediction import Prediction
from dbrun.errors import StageFailed
from dbrun.images.samples import ADAPTED, BASE, Drawn, write_samples
from dbrun.models.base import Family, Loaded
from dbrun.models.configs import licence
from dbrun.models.scheduling import scheduler_changes
from dbrun.recipe.checks import exports
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import in_turn
from dbrun.safetensors_header import trigger
from dbrun.stages.base import Job, Numerics, Sources, Stage
from dbrun.stages.load import read_base
from dbrun.stages.support import cost
from dbrun.stages.support.amounts import Amounts, guided, learners
from dbrun.stages.support.arithmetic import Precision, base_in_memory, drawn_in
from dbrun.stages.support.lowres_inputs import SHOWN, Starts, starts
from dbrun.stages.support.provenance import portable, provenance

if TYPE_CHECKING:
    from dbrun.formats.base import Format
    from dbrun.formats.roundtrip import Expected, Probe

PLACES = ("in the snow", "on the moon", "at night", "in the city")
"""Where the subject is shown if the recipe names no prompts."""
MOST = 16
"""Columns of before_after.png."""
ROWS = (BASE, ADAPTED)
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
    prediction: Prediction | None = None
    zero_terminal_snr: bool = False
    starts: Starts | None = None

    def changes(self, loaded: Loaded) -> dict[str, object]:
        """How the scheduler for the trained adapter differs from the base's."""
        return scheduler_changes(loaded.pipeline.scheduler.config, self.prediction, self.zero_terminal_snr)


class Export(Stage[ExportParams]):
    """Write each format, read it back with its own library, compare; then draw before_after.png and loss.png."""

    NAME: ClassVar[str] = "export"
    VERSION: ClassVar[int] = 5
    needs: ClassVar[tuple[str, ...]] = ("load", "adapt", "train")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "peft", "safetensors",
                                            "numpy", "pillow")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.formats", "dbrun.images.grid", "dbrun.images.loss_plot",
        "dbrun.images.pixels", "dbrun.images.samples", "dbrun.models", "dbrun.safetensors_header",
        "dbrun.stages.support.arithmetic", "dbrun.stages.support.inputs",
        "dbrun.stages.support.lowres_inputs", "dbrun.stages.support.provenance", "dbrun.training.device")

    def params(self, recipe: Recipe, sources: Sources) -> ExportParams:
        """The formats, the provenance, and the pictures' settings; what is left out, the base suggests."""
        samples, suits, begin = recipe.samples, sources.base.sampling, starts(recipe, sources)
        prompts = tuple(one.instance_prompt for one in recipe.taught.values() if one.instance_prompt)
        return ExportParams(tuple(sorted(exports.chosen(recipe))), portable(recipe, sources),
                            prompts[0] if len(prompts) == 1 else prompts or None,
                            samples.prompts or default_prompts(recipe, sources, begin),
                            suits.steps if samples.steps is None else samples.steps,
                            suits.guidance if samples.guidance is None else samples.guidance,
                            samples.seed, recipe.images.resolution, recipe.train.precision,
                            recipe.objective.prediction, recipe.objective.zero_terminal_snr, begin)

    def items(self, params: ExportParams, inputs: Mapping[str, str],
              numerics: Numerics) -> Sequence[Mapping[str, object]]:
        """One for each picture of before_after.png, row after row."""
        # the base's own row is drawn as ever; the adapter's depends on what it was taught to predict
        taught = {n: v for n, v in (("prediction", params.prediction), ("zero_snr", params.zero_terminal_snr)) if v}
        precision = drawn_in(params.precision, numerics)
        return [{"base": inputs["load"], "adapter": inputs["train"] if row == ADAPTED else None,
                 "prompt": prompt, "seed": params.seed + column, "steps": params.steps,
                 "guidance": params.guidance, "resolution": params.resolution, "precision": precision,
                 **(taught if row == ADAPTED else {}),
                 **(params.starts.key(column) if params.starts else {})}
                for row in ROWS for column, prompt in enumerate(params.prompts)]

    def amounts(self, recipe: Recipe, sources: Sources) -> Amounts:
        """Pictures of so many pixels in so many sampler steps, without and with the adapter, and what is written."""
        params, size = self.params(recipe, sources), cost.weights(sources.base, recipe.adapt)
        count, pixels = len(ROWS) * len(params.prompts), params.resolution**2
        return Amounts(count, params.steps * pixels, (pixels, size),
                       {".safetensors": size, "before_after.png": count * pixels, "loss.png": 1.0,
                        ".png": count * pixels},
                       (*learners(recipe.adapt), *params.formats, params.precision, guided(params.guidance)))

    def room(self, job: Job[ExportParams]) -> int:
        """Each format in 32 bits, the pictures with copies, and all of it once more where it is delivered."""
        from dbrun.formats.base import formats

        params, known = job.params, formats()
        weights = cost.stored(job.inputs["train"])
        files = sum(2 * cost.base(job) if known[name].LARGE else weights for name in params.formats)
        return 2 * (files + 5 * cost.pictures(2 * len(params.prompts) + 1, params.resolution)) + 2 * cost.MARGIN

    def run(self, job: Job[ExportParams]) -> None:
        """Fill job.out; nothing in it says when or where it was made."""
        from dbrun.formats.base import formats
        from dbrun.formats.model_card import card, cautions

        adapters = read_artifact(job.inputs["train"].path)
        _before_after(job, adapters)
        family, loaded = base_in_memory(job, "fp32")
        _scheduler(job, family, loaded)
        probe, expected = _expected(job, adapters, family, loaded)
        document = provenance(job.params.recipe, job.params.instance_prompt, job.inputs, job.numerics, self.libraries)
        assert job.base is not None
        document |= {"trigger": trigger(job.params.recipe), "licence": licence(job.base)}
        for name in job.params.formats:
            job.poll()
            _write(job, formats()[name], probe, expected, document)
        _curve(job)
        said = cautions(family, job.params.formats, adapters)
        for line in said:
            job.note(line, level="warning")
        text = card(document, family, job.params.formats, job.params.prompts, said)
        (job.out / "README.md").write_text(text, encoding="utf-8")


def default_prompts(recipe: Recipe, sources: Sources, begin: Starts | None = None) -> tuple[str, ...]:
    """For each subject the instance prompt, the same in places that a training picture may lack, and the class prompt.

    Of a lone subject the class prompt twice, since each column has its own seed: the class should still be various. Of
    several subjects a place each, so that all have room. Without an instance prompt, some of the pictures' own. Where
    pictures are enlarged, a few of them, each under its own prompt: a small photo says itself where it was taken.
    """
    if begin is not None:
        return tuple(picture.prompt for picture in begin.pictures[:SHOWN])
    lone = len(recipe.taught) == 1
    shown: list[str] = []
    for number, subject in enumerate(recipe.taught.values()):
        pictures = sources.of_subjects[number] if sources.of_subjects else sources.pictures
        own, places = subject.instance_prompt, PLACES if lone else (PLACES[number % len(PLACES)],)
        shown += (own, *(f"{own} {place}" for place in places)) if own else list(
            dict.fromkeys(picture.prompt for picture in pictures))[:1 + len(places)]
        shown += (subject.class_prompts * 2)[:2 if lone else 1]
    return tuple(shown[:MOST])


def _before_after(job: Job[ExportParams], adapters: Mapping[str, Attached]) -> None:
    """Draw before_after.png and samples/: the same prompts and seeds without and with the adapter."""
    from PIL import Image

    from dbrun.images.grid import save_png, sheet

    params, precision = job.params, drawn_in(job.params.precision, job.numerics)

    @cache
    def base() -> tuple[Family, Loaded]:
        return base_in_memory(job, precision)

    @cache
    def adapted() -> tuple[Family, Loaded]:
        family, loaded = base()
        for name, attached in adapters.items():
            attached.onto(family.module(loaded, name))
            settle(family.module(loaded, name), loaded.dtype)
        return family, family.rescheduled(loaded, params.changes(loaded))

    def draw(model: Callable[[], tuple[Family, Loaded]], column: int, folder: Path) -> None:
        family, loaded = model()
        picture = family.generate(loaded, params.prompts[column], seed=params.seed + column, steps=params.steps,
                                  guidance=params.guidance, resolution=params.resolution, start=small(column),
                                  tick=job.poll)
        save_png(picture, folder / "picture.png")

    def small(column: int) -> Image.Image | None:
        if params.starts is None:
            return None
        side = params.resolution // read_base(job.inputs["load"]).family.enlarges
        return params.starts.small(column, job.files, params.resolution, side)

    rows: dict[str, list[Image.Image]] = {row: [] for row in ROWS}
    keys = Export().items(params, {name: one.digest for name, one in job.inputs.items()}, job.numerics)
    for place, key in enumerate(keys):
        job.poll()
        job.progress(place, len(keys), "pictures")
        row, column = divmod(place, len(params.prompts))
        make = partial(draw, (base, adapted)[row], column)
        rows[ROWS[row]].append(Image.open(job.items.get(key, make) / "picture.png"))
    begun = tuple(picture for column in range(len(params.prompts)) if (picture := small(column)))
    save_png(sheet((*((("small", begun),) if begun else ()), *rows.items()), params.prompts),
             job.out / "before_after.png")
    write_samples(job.out, Drawn(params.prompts, params.seed, params.steps, params.guidance), rows)
    job.progress(len(keys), len(keys), "pictures")


def _scheduler(job: Job[ExportParams], family: Family, loaded: Loaded) -> None:
    """Write the scheduler that the adapter is to be sampled with, where that is not the base's."""
    from dbrun.formats.scheduler import FOLDER, write_scheduler

    if changes := job.params.changes(loaded):
        write_scheduler(job.out, family, loaded, changes)
        said = ", ".join(f"{key} {value}" for key, value in changes.items())
        job.note(f"sample with the scheduler in {FOLDER}/, not with the base's: {said}")


def _expected(job: Job[ExportParams], adapters: Mapping[str, Attached], family: Family,
              loaded: Loaded) -> tuple[Probe, Expected]:
    """What the trained model predicts, in 32 bits; a trained adapter that changes nothing is an error."""
    import torch

    from dbrun.formats.roundtrip import Expected, Probe

    assert job.base is not None
    multiple = family.pixel_multiple(job.base)
    probe = Probe(_telling(job.params, adapters), multiple * max(1, min(job.params.resolution, 64) // multiple))
    base = probe.ask(family, loaded)
    for name, attached in adapters.items():
        attached.onto(family.module(loaded, name))
    expected = Expected(base, probe.ask(family, loaded), adapters)
    initial = read_artifact(job.inputs["adapt"].path)
    learnt = any(not torch.equal(tensor, initial[name].state[key])
                 for name, attached in adapters.items() for key, tensor in attached.state.items())
    if not learnt:
        job.note("training left the adapter as it began", level="warning")
    elif not expected.effect > 0:
        raise StageFailed("the trained adapter changes no prediction",
                          fix="raise `train.learning_rate` or `train.steps`")
    return probe, expected


def _telling(params: ExportParams, adapters: Mapping[str, Attached]) -> str:
    """A prompt that what was taught answers to: one that says the new word, where there is one."""
    prompts = (*in_turn(params.instance_prompt), *params.prompts)
    words = [getattr(attached.adapter, "token", "") for attached in adapters.values()]
    return next((prompt for prompt in prompts if all(word in prompt for word in words)), prompts[0])


def _write(job: Job[ExportParams], form: Format, probe: Probe, expected: Expected,
           document: Mapping[str, object]) -> None:
    """Write one format with its provenance; it counts only once its own library has read it back."""
    from dbrun.formats.stamp import stamp

    family, loaded = base_in_memory(job, "fp32")
    carried = {name: adapter for name, adapter in expected.adapters.items() if form.carries(family, name)}

    def bare() -> Loaded:
        return family.rescheduled(base_in_memory(job, "fp32")[1], job.params.changes(loaded))

    written = form.write(job.out, family, carried, bare)
    for name in sorted(expected.adapters.keys() - carried.keys()):
        expected.adapters[name].onto(family.module(loaded, name))
    form.read(job.out, family, loaded, tuple(carried))
    difference = expected.compare(probe.ask(family, loaded), family, loaded, form, tuple(carried))
    reached = {name: float(f"{value:.1e}") for name, value in
               (("difference", difference), ("allowed", expected.allowed), ("effect", expected.effect))}
    for path in written:
        stamp(path, {**document, "self_check": {"format": form.NAME, **reached}})
    from dbrun.formats.roundtrip import nearness

    job.note(f"{form.NAME}: read back, {nearness(difference)}")


def _curve(job: Job[ExportParams]) -> None:
    from dbrun.images.grid import save_png
    from dbrun.images.loss_plot import loss_curve

    text = (job.inputs["train"].path / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    series = {name: [(row["step"], row[key]) for row in lines if row.get(key) is not None]
              for name, key in (("instance", "instance_loss"), ("class", "prior_loss"),
                                ("held out", "held_out_loss"))}
    save_png(loss_curve(series), job.out / "loss.png")
