"""How do the adapters learn the subject? The stage `train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.errors import Interrupted, RecipeError
from dbrun.models.base import Model, families
from dbrun.models.scheduling import scheduler_changes
from dbrun.options.objective import DEFAULT_UNMASKED_WEIGHT, check_objective
from dbrun.options.packages import OptionalPackage
from dbrun.options.trackers import TRACKER_PACKAGES
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base
from dbrun.stages.support.cost import adapter_labels
from dbrun.stages.support.held_out import held_out_indices
from dbrun.stages.support.prompt_index import PromptIndex
from dbrun.stages.support.training_length import training_length
from dbrun.training.settings import TrainParams
from dbrun.workload import Workload

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.training.batches import Batches
    from dbrun.training.evaluation import HeldOutEvaluator
    from dbrun.training.loop import Metrics, Trainer
    from dbrun.training.monitor import Monitor
    from dbrun.training.prompt_embeds import PromptEncoder

METRICS_FILE = "metrics.jsonl"


class Train(Stage[TrainParams]):
    """Trains the adapters; the artifact is `adapt`'s with other weights, and `metrics.jsonl`, a line per step."""

    NAME: ClassVar[str] = "train"
    multi_process: ClassVar[bool] = True
    oom_fix: ClassVar[str] = ("lower `train.batch_size` and raise `train.accumulation` instead, lower "
                              "`images.resolution`, or set `train.gradient_checkpointing: true`")
    VERSION: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("load", "adapt", "preprocess")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "peft", "accelerate",
                                            "safetensors")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.diffusion", "dbrun.images.manifest", "dbrun.models", "dbrun.options",
        "dbrun.seeds", "dbrun.stages.support.base_loading",
        "dbrun.stages.support.prompt_index", "dbrun.training")

    def params(self, recipe: Recipe, sources: Sources) -> TrainParams:
        """The recipe's `train` and `objective`, the weight of the priors, and the seed."""
        train, components, steps = recipe.train, recipe.adapt.components, training_length(recipe, sources).steps
        rates = {name: own * train.learning_rate_scale for name, adapter in components.items()
                 if (own := adapter.learning_rate) is not None and own != train.learning_rate}
        stops = {name: stop for name, adapter in components.items() if (stop := adapter.stop_step(steps)) is not None}
        prior = recipe.prior
        return TrainParams.resolve(
            train, steps=steps, learning_rate=train.learning_rate * train.learning_rate_scale,
            class_labels=train.class_labels or families()[recipe.base.type].class_labels[0],
            prior_weight=prior.weight if prior else 0.0, prior_target=prior.target if prior else "images",
            seed=recipe.seed, learning_rates=rates, stops=stops, objective=recipe.objective,
            held=held_out_indices(recipe, sources))

    def extendable_params(self, params: TrainParams) -> tuple[str, ...]:
        """`steps`, where no step's learning rate depends on how many there are."""
        return () if params.schedule.depends_on_steps else ("steps",)

    def restarts_on(self, params: TrainParams) -> Mapping[str, str]:
        """`steps`, where the learning rates of all steps change with it."""
        depends = f"the learning rates of `{params.schedule.NAME}` depend on how many steps there are"
        return {"steps": depends} if params.schedule.depends_on_steps else {}

    def required_packages(self, params: TrainParams) -> tuple[OptionalPackage, ...]:
        """The optimizer's, where it is not one of torch's or transformers'."""
        return (params.optimizer.REQUIRED_PACKAGE,) if params.optimizer.REQUIRED_PACKAGE else ()

    def optional_packages(self, recipe: Recipe) -> tuple[OptionalPackage, ...]:
        """Those of the trackers."""
        return tuple(TRACKER_PACKAGES[name] for name in recipe.trackers or ())

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """Steps of so many pixels, of which memory holds a micro-batch, beside the adapters."""
        train, steps = recipe.train, training_length(recipe, sources).steps
        size = cost.adapter_size(sources.base, recipe.adapt)
        micro = float(train.batch_size * (1 if recipe.prior is None else 2) * recipe.images.resolution**2)
        like = (*adapter_labels(recipe.adapt), train.precision, train.optimizer.NAME, f"tf32 {train.tf32}",
                f"checkpointing {train.gradient_checkpointing}", f"ema {train.ema is not None}",
                f"held out {train.held_out}", f"samples {recipe.samples if recipe.samples.every else None}",
                f"target {recipe.prior.target if recipe.prior else 'images'}")
        return Workload(steps, micro * train.accumulation, (micro, size), {".safetensors": size, METRICS_FILE: steps},
                        like)

    def max_disk_bytes(self, ctx: StageContext[TrainParams]) -> int:
        """As many checkpoints as are kept, one more while it is written, and the adapters."""
        params, weights = ctx.params, cost.artifact_bytes(ctx.inputs["adapt"])
        history = 1000 * params.steps
        beside: int = params.optimizer.STATES_PER_WEIGHT + (params.ema is not None) + (params.held_out is not None)
        checkpoint = weights * (1 + beside) + history
        return checkpoint * (ctx.runtime.keep + 1) + weights + history + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[TrainParams]) -> None:
        """Train from the newest checkpoint, or from the start, to the last step."""
        from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters, write_adapters

        model = _prepare_base(ctx)
        adapters = read_adapters(ctx.inputs["adapt"].path)
        for component, adapter in adapters.items():
            adapter.attach_to(model.module(component))
        trainer = _make_trainer(ctx, model, tuple(adapters))
        batches = _make_batches(ctx, model, trainer)
        trainer.evaluator = _make_evaluator(ctx, model, batches)

        _resume(ctx, trainer)
        monitor = _make_monitor(ctx, model, trainer, num_halves=len(batches.halves))
        try:
            monitor.start()
            for done in trainer.run(batches):
                monitor.log_step(done)
                _save_and_stop(ctx, trainer)
                monitor.draw_samples()
        finally:
            monitor.close()

        _note_best_step(ctx, trainer)
        states = trainer.adapter_states()
        write_adapters(ctx.out,
                       {name: ComponentAdapter(a.adapter, a.modules, states[name]) for name, a in adapters.items()})
        (ctx.out / METRICS_FILE).write_text("".join(map(_metrics_line, trainer.history)), encoding="utf-8")


def _prepare_base(ctx: StageContext[TrainParams]) -> Model:
    """The base with the process that it is to be trained under. Raises RecipeError where the objective does not fit."""
    from dbrun.training.device import allow_tf32
    from dbrun.training.recompute import enable_gradient_checkpointing

    model = load_base(ctx, ctx.params.precision)
    if ctx.params.tf32:
        allow_tf32()
    if ctx.runtime.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    objective, config = ctx.params.objective, model.scheduler.config
    # a base that was fetched after planning is seen here for the first time
    for key, message, fix in check_objective(objective, config):
        raise RecipeError(f"`{key}`: {message}", fix=fix)
    changes = scheduler_changes(config, objective.prediction, objective.zero_terminal_snr)
    return model.with_scheduler_changes(changes)


def _make_trainer(ctx: StageContext[TrainParams], model: Model,
                  components: tuple[str, ...]) -> Trainer:
    from dbrun.training.gradient_sync import GradientSync
    from dbrun.training.loop import Trainer

    of_base = _prompt_encoder(ctx, model) if ctx.params.prior_target == "base" else None
    group = ctx.process_group
    return Trainer(model, components, _prompt_encoder(ctx, model), ctx.params, base_prompt_encoder=of_base,
                   gradient_sync=GradientSync(group.rank, group.size, group.check_alive))


def _make_batches(ctx: StageContext[TrainParams], model: Model, trainer: Trainer) -> Batches:
    from dbrun.training.batches import Batches
    from dbrun.training.evaluation import without_held_out
    from dbrun.training.latent_cache import load_latents, load_loss_masks, picture_sets
    from dbrun.training.noise import Noise

    objective, params, folder = ctx.params.objective, ctx.params, ctx.inputs["preprocess"].path
    unmasked = DEFAULT_UNMASKED_WEIGHT if objective.unmasked_weight is None else objective.unmasked_weight
    latents = load_latents(folder)
    # where the base is the target, the class half shows the instance images over and over, prompt after prompt
    manifest = _read_index(ctx).manifest(latents, shared=params.prior_target == "base")
    every = picture_sets(manifest, latents, load_loss_masks(folder, unmasked))
    return Batches(without_held_out(every, frozenset(params.held)), params.seed, params.batch_size,
                   trainer.process.num_timesteps,
                   lambda rows, randn: model.sample_x0(rows, randn, params.class_labels), objective.timesteps,
                   Noise(objective.noise_offset, objective.input_perturbation, objective.pyramid_noise))


def _make_evaluator(ctx: StageContext[TrainParams], model: Model,
                    batches: Batches) -> HeldOutEvaluator | None:
    """Who looks at the held-out pictures, if any are."""
    from dbrun.training.evaluation import HeldOutEvaluator

    choice = ctx.params.held_out
    if choice is None:
        return None
    return HeldOutEvaluator(choice,
                            [batches.held_out_batch(i, place, choice.draws) for place, i in enumerate(ctx.params.held)],
                            _prompt_encoder(ctx, model, keep=False))


def _make_monitor(ctx: StageContext[TrainParams], model: Model, trainer: Trainer, *, num_halves: int) -> Monitor:
    from dbrun.training.monitor import Monitor

    runtime, samples = ctx.runtime, ctx.runtime.samples

    def draw(column: int) -> Image:
        assert samples is not None, "else nothing is drawn"
        start = None
        if samples.starts is not None:
            start = samples.starts.start_image(column, ctx.files, samples.resolution, model.family)
        return model.generate(samples.prompts[column], seed=samples.seed + column, steps=samples.steps,
                              guidance=samples.guidance, resolution=samples.resolution, start_image=start)

    return Monitor(trainer, ctx, run_folder=None if ctx.process_group.rank else runtime.run_folder, work=ctx.work,
                   name=runtime.name, trackers=runtime.trackers, samples=samples, draw=draw,
                   images_per_step=ctx.params.batch_size * ctx.params.accumulation * num_halves,
                   steps_per_epoch=runtime.steps_per_epoch)


def _note_best_step(ctx: StageContext[TrainParams], trainer: Trainer) -> None:
    """Say which weights are exported, where they are not those of the last step that was asked for."""
    from dbrun.training.evaluation import best_step

    done, best = len(trainer.history), best_step(trainer.history)
    if trainer.evaluator is None or not trainer.evaluator.best_states or best is None:
        return
    early = f"stopped after step {done} of {ctx.params.steps}; " if done < ctx.params.steps else ""
    ctx.note(f"{early}the held-out loss was least after step {best}, and the weights of that step are kept")


def _prompt_encoder(ctx: StageContext[TrainParams], model: Model, *,
                    keep: bool = True) -> PromptEncoder:
    """Live where anything that prompts go through learns, else from the cache. keep: see `live_prompts`."""
    from dbrun.training.latent_cache import load_conditions
    from dbrun.training.param_groups import trains_text_encoders
    from dbrun.training.prompt_embeds import cached_prompts, live_prompts

    texts = _read_index(ctx).prompts
    if trains_text_encoders(model):
        return live_prompts(model, texts, keep=keep)
    return cached_prompts(model, load_conditions(ctx.inputs["preprocess"].path, len(texts)))


def _read_index(ctx: StageContext[TrainParams]) -> PromptIndex:
    return PromptIndex.read(ctx.inputs["preprocess"].path)


def _checkpoint_folder(ctx: StageContext[TrainParams]) -> Path:
    return ctx.work / "checkpoints"


def _resume(ctx: StageContext[TrainParams], trainer: Trainer) -> None:
    from dbrun.training.checkpoint import load_newest

    checkpoint, damaged = load_newest(_checkpoint_folder(ctx), at_most=ctx.params.steps)
    for name in damaged:
        ctx.note(f"the checkpoint {name} is damaged; an older one is used", level="warning")
    if checkpoint is not None:
        trainer.restore(checkpoint)
        ctx.note(f"going on after step {checkpoint.step} of {ctx.params.steps}")
    trainer.gradient_sync.check_equal(len(trainer.history), "the step to resume after")


def _save_and_stop(ctx: StageContext[TrainParams], trainer: Trainer) -> None:
    """Checkpoint every so many steps, before samples, at the last step, and where a signal asks to stop; then stop."""
    from dbrun.training.checkpoint import save_checkpoint

    # every process stops after the same step
    step, signum = len(trainer.history), int(trainer.gradient_sync.broadcast(ctx.stop_signal()))
    every = (ctx.runtime.checkpoint_every, *([ctx.runtime.samples.every] if ctx.runtime.samples else []))
    due = any(step % steps == 0 for steps in every) or trainer.is_done or signum
    if due and not ctx.process_group.rank:
        save_checkpoint(_checkpoint_folder(ctx), trainer.checkpoint(), keep=ctx.runtime.keep)
    if signum:
        raise Interrupted(signum)


def _metrics_line(metrics: Metrics) -> str:
    from dbrun.training.loop import metrics_as_json

    return json.dumps(metrics_as_json(metrics)) + "\n"
