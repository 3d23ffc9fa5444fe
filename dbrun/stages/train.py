"""How do the adapters learn the subject? The stage `train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.errors import Interrupted, RecipeError
from dbrun.models.base import Condition, Family, Loaded, families
from dbrun.models.scheduling import scheduler_changes
from dbrun.options.ema import Ema
from dbrun.options.held_out import HeldOut
from dbrun.options.optimizers import OptimizerChoice
from dbrun.options.packages import Package
from dbrun.options.schedules import Schedule
from dbrun.options.trackers import PACKAGES
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.objective import AS_THE_BASE, UNMASKED, Objective, misfits
from dbrun.stages.base import Job, Sources, Stage
from dbrun.stages.support import cost
from dbrun.stages.support.amounts import Amounts, learners
from dbrun.stages.support.arithmetic import Precision, base_in_memory
from dbrun.stages.support.beside import Beside
from dbrun.stages.support.held_out import held_out
from dbrun.stages.support.prompt_index import Index
from dbrun.stages.support.training_length import length

if TYPE_CHECKING:
    from dbrun.training.batches import Batches
    from dbrun.training.evaluation import Watch
    from dbrun.training.loop import Metrics, Trainer
    from dbrun.training.prompt_embeds import Conditions

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class TrainParams:
    """What of the recipe reaches the trained bytes; the words are those of `train`. prior_weight: 0 without priors.

    learning_rates: component -> its own peak, where it is another than the common one; stops: component -> steps
    that it learns, where it does not learn all. A stop that is a share is counted out, so that a longer run with
    the same share is another run. held: the numbers of the instance pictures that are held out.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"accumulation": 1, "learning_rates": {}, "stops": {},
                                              "objective": AS_THE_BASE, "class_labels": "none",
                                               "prior_target": "images", "ema": None, "tf32": False,
                                               "held_out": None, "held": ()}
    WORDS: ClassVar[Mapping[str, str]] = {"prior_weight": "prior.weight", "prior_target": "prior.target",
                                          "seed": "seed", "objective": "objective",
                                          "learning_rates": "adapt.{}.learning_rate", "stops": "adapt.{}.stop_at",
                                          "held": "pictures held out"}

    steps: int
    learning_rate: float
    batch_size: int
    accumulation: int
    max_grad_norm: float | None
    optimizer: OptimizerChoice
    schedule: Schedule
    precision: Precision
    prior_weight: float
    seed: int
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    stops: Mapping[str, int] = field(default_factory=dict)
    objective: Objective = AS_THE_BASE
    class_labels: str = "none"
    prior_target: str = "images"
    ema: Ema | None = None
    tf32: bool = False
    held_out: HeldOut | None = None
    held: tuple[int, ...] = ()


class Train(Stage[TrainParams]):
    """Trains the adapters; the artifact is `adapt`'s with other weights, and `metrics.jsonl`, a line per step."""

    NAME: ClassVar[str] = "train"
    shared: ClassVar[bool] = True
    lighter: ClassVar[str] = ("lower `train.batch_size` and raise `train.accumulation` instead, lower "
                              "`images.resolution`, or set `train.gradient_checkpointing: true`")
    VERSION: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("load", "adapt", "preprocess")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "peft", "accelerate",
                                            "safetensors")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.diffusion", "dbrun.models", "dbrun.options",
        "dbrun.recipe.schema.objective", "dbrun.seeds", "dbrun.stages.support.arithmetic",
        "dbrun.stages.support.prompt_index", "dbrun.training")

    def params(self, recipe: Recipe, sources: Sources) -> TrainParams:
        """The recipe's `train` and `objective`, the weight of the priors, and the seed."""
        train, components, steps = recipe.train, recipe.adapt.components, length(recipe, sources).steps
        rates = {name: own * train.rate_factor for name, adapter in components.items()
                 if (own := adapter.learning_rate) is not None and own != train.learning_rate}
        stops = {name: stop for name, adapter in components.items() if (stop := adapter.stop(steps)) is not None}
        return TrainParams(
            steps=steps, learning_rate=train.learning_rate * train.rate_factor, batch_size=train.batch_size,
            accumulation=train.accumulation, max_grad_norm=train.max_grad_norm, optimizer=train.optimizer,
            schedule=train.schedule, precision=train.precision,
            prior_weight=recipe.prior.weight if recipe.prior else 0.0, seed=recipe.seed,
            learning_rates=rates, stops=stops, objective=recipe.objective, ema=train.ema, tf32=train.tf32,
            held_out=train.held_out, held=held_out(recipe, sources),
            prior_target=recipe.prior.target if recipe.prior else "images",
            class_labels=train.class_labels or families()[recipe.base.type].class_labels[0])

    def lengthens(self, params: TrainParams) -> tuple[str, ...]:
        """`steps`, where no step's learning rate depends on how many there are."""
        return () if params.schedule.horizon else ("steps",)

    def anew(self, params: TrainParams) -> Mapping[str, str]:
        """`steps`, where the learning rates of all steps change with it."""
        depends = f"the learning rates of `{params.schedule.NAME}` depend on how many steps there are"
        return {"steps": depends} if params.schedule.horizon else {}

    def packages(self, params: TrainParams) -> tuple[Package, ...]:
        """The optimizer's, where it is not one of torch's or transformers'."""
        return (params.optimizer.PACKAGE,) if params.optimizer.PACKAGE else ()

    def wishes(self, recipe: Recipe) -> tuple[Package, ...]:
        """Those of the trackers."""
        return tuple(PACKAGES[name] for name in recipe.trackers or ())

    def amounts(self, recipe: Recipe, sources: Sources) -> Amounts:
        """Steps of so many pixels, of which memory holds a micro-batch, beside the adapters."""
        train, steps, size = recipe.train, length(recipe, sources).steps, cost.weights(sources.base, recipe.adapt)
        micro = float(train.batch_size * (1 if recipe.prior is None else 2) * recipe.images.resolution**2)
        like = (*learners(recipe.adapt), train.precision, train.optimizer.NAME, f"tf32 {train.tf32}",
                f"checkpointing {train.gradient_checkpointing}", f"ema {train.ema is not None}",
                f"held out {train.held_out}", f"samples {recipe.samples if recipe.samples.every else None}",
                f"target {recipe.prior.target if recipe.prior else 'images'}")
        return Amounts(steps, micro * train.accumulation, (micro, size), {".safetensors": size, METRICS: steps}, like)

    def room(self, job: Job[TrainParams]) -> int:
        """As many checkpoints as are kept, one more while it is written, and the adapters."""
        params, weights = job.params, cost.stored(job.inputs["adapt"])
        history = 1000 * params.steps
        beside = params.optimizer.NUMBERS + (params.ema is not None) + (params.held_out is not None)
        checkpoint = weights * (1 + beside) + history
        return checkpoint * (job.upkeep.keep + 1) + weights + history + cost.MARGIN

    def run(self, job: Job[TrainParams]) -> None:
        """Train from the newest checkpoint, or from the start, to the last step."""
        from dbrun.adapters.adapter_io import Attached, read_artifact, write_artifact

        family, loaded = _base(job)
        adapters = read_artifact(job.inputs["adapt"].path)
        for component, adapter in adapters.items():
            adapter.onto(family.module(loaded, component))
        trainer = _trainer(job, family, loaded, tuple(adapters))
        batches = _batches(job, family, loaded, trainer)
        trainer.watch = _watch(job, family, loaded, batches)

        _resume(job, trainer)
        images = job.params.batch_size * job.params.accumulation * len(batches.halves)
        beside = Beside(job, family, loaded, trainer, images)
        try:
            beside.begin()
            for done in trainer.run(batches):
                beside.report(done)
                _keep(job, trainer)
                beside.sample()
        finally:
            beside.end()

        _tell_end(job, trainer)
        states = trainer.adapters()
        write_artifact(job.out, {name: Attached(a.adapter, a.modules, states[name]) for name, a in adapters.items()})
        (job.out / METRICS).write_text("".join(map(_line, trainer.history)), encoding="utf-8")


def _base(job: Job[TrainParams]) -> tuple[Family, Loaded]:
    """The base with the process that it is to be trained under. Raises RecipeError where the objective does not fit."""
    from dbrun.training.device import allow_tf32
    from dbrun.training.recompute import recompute

    family, loaded = base_in_memory(job, job.params.precision)
    if job.params.tf32:
        allow_tf32()
    if job.upkeep.recompute:
        recompute(family, loaded)
    objective, config = job.params.objective, loaded.pipeline.scheduler.config
    # a base that was fetched after planning is seen here for the first time
    for key, message, fix in misfits(objective, config):
        raise RecipeError(f"`{key}`: {message}", fix=fix)
    changes = scheduler_changes(config, objective.prediction, objective.zero_terminal_snr)
    return family, family.rescheduled(loaded, changes)


def _trainer(job: Job[TrainParams], family: Family, loaded: Loaded, components: tuple[str, ...]) -> Trainer:
    from dbrun.training.gradient_sync import Exchange
    from dbrun.training.loop import Settings, Trainer
    from dbrun.training.param_groups import Own

    p = job.params
    return Trainer(family, loaded, components, _conditions(job, family, loaded), Settings(
        steps=p.steps, learning_rate=p.learning_rate, accumulation=p.accumulation, max_grad_norm=p.max_grad_norm,
        optimizer=p.optimizer, schedule=p.schedule, precision=p.precision, prior_weight=p.prior_weight, seed=p.seed,
        own=Own(p.learning_rates, p.stops), distance=p.objective.distance, weighting=p.objective.weighting,
        ema=p.ema),
        of_base=_conditions(job, family, loaded) if p.prior_target == "base" else None,
        exchange=Exchange(job.ranks.rank, job.ranks.size, job.ranks.watch))


def _batches(job: Job[TrainParams], family: Family, loaded: Loaded, trainer: Trainer) -> Batches:
    from dbrun.training.batches import Batches
    from dbrun.training.caption_sampling import Varied
    from dbrun.training.evaluation import withheld
    from dbrun.training.latent_cache import halves
    from dbrun.training.noise import Noise

    objective, params, index = job.params.objective, job.params, _index(job)
    unmasked = UNMASKED if objective.unmasked_weight is None else objective.unmasked_weight
    # where the base is the target, the class half shows the instance images over and over, prompt after prompt
    shows = [index.shown(row) for row in range(len(index.classes))] if params.prior_target == "base" else None
    varied = Varied(index.variants, index.dropout, index.prompts.index("") if index.dropout else 0)
    every = halves(job.inputs["preprocess"].path, index.instance, index.classes, shows, unmasked, varied,
                   index.repeats)
    return Batches(withheld(every, frozenset(params.held), shows), params.seed, params.batch_size,
                   trainer.process.timesteps,
                   lambda rows, randn: family.draw(loaded, rows, randn, params.class_labels), objective.timesteps,
                   Noise(objective.noise_offset, objective.input_perturbation, objective.pyramid_noise))


def _watch(job: Job[TrainParams], family: Family, loaded: Loaded, batches: Batches) -> Watch | None:
    """Who looks at the held-out pictures, if any are."""
    from dbrun.training.evaluation import Watch

    choice = job.params.held_out
    if choice is None:
        return None
    return Watch(choice, [batches.looked_at(i, place, choice.draws) for place, i in enumerate(job.params.held)],
                 _conditions(job, family, loaded, keep=False))


def _tell_end(job: Job[TrainParams], trainer: Trainer) -> None:
    """Say which weights are exported, where they are not those of the last step that was asked for."""
    from dbrun.training.evaluation import best_step

    done, best = len(trainer.history), best_step(trainer.history)
    if trainer.watch is None or not trainer.watch.best or best is None:
        return
    early = f"stopped after step {done} of {job.params.steps}; " if done < job.params.steps else ""
    job.note(f"{early}the held-out loss was least after step {best}, and the weights of that step are kept")


def _conditions(job: Job[TrainParams], family: Family, loaded: Loaded, *, keep: bool = True) -> Conditions:
    """Live where anything that prompts go through learns, else from the cache. keep: see `live`."""
    from safetensors.torch import load_file

    from dbrun.training.param_groups import prompts_learn
    from dbrun.training.prompt_embeds import cached, live

    texts = _index(job).prompts
    if prompts_learn(family, loaded):
        return live(family, loaded, texts, keep=keep)
    tensors = load_file(job.inputs["preprocess"].path / "prompts.safetensors")
    encoded: list[Condition] = [{key.split(".", 1)[1]: tensor for key, tensor in tensors.items()
                                 if key.startswith(f"{i:05d}.")} for i in range(len(texts))]
    return cached(family, encoded, loaded.device)


def _index(job: Job[TrainParams]) -> Index:
    return Index.read(job.inputs["preprocess"].path)


def _checkpoints(job: Job[TrainParams]) -> Path:
    return job.work / "checkpoints"


def _resume(job: Job[TrainParams], trainer: Trainer) -> None:
    from dbrun.training.checkpoint import newest

    checkpoint, damaged = newest(_checkpoints(job), at_most=job.params.steps)
    for name in damaged:
        job.note(f"the checkpoint {name} is damaged; an older one is used", level="warning")
    if checkpoint is not None:
        trainer.restore(checkpoint)
        job.note(f"going on after step {checkpoint.step} of {job.params.steps}")
    trainer.exchange.alike(len(trainer.history), "they go on after the steps")


def _keep(job: Job[TrainParams], trainer: Trainer) -> None:
    """Checkpoint every so many steps, before samples, at the last step, and where a signal asks to stop; then stop."""
    from dbrun.training.checkpoint import publish

    # every process stops after the same step
    step, signum = len(trainer.history), int(trainer.exchange.agree(job.stopping()))
    every = (job.upkeep.checkpoint_every, *([job.upkeep.samples.every] if job.upkeep.samples else []))
    due = any(step % steps == 0 for steps in every) or trainer.over or signum
    if due and not job.ranks.rank:
        publish(_checkpoints(job), trainer.checkpoint(), keep=job.upkeep.keep)
    if signum:
        raise Interrupted(signum)


def _line(metrics: Metrics) -> str:
    from dbrun.training.loop import finite

    return json.dumps(finite(metrics)) + "\n"
