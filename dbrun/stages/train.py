"""The stage `train`: trains the adapters, with checkpoints, samples and held-out evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar

from dbrun.errors import RecipeError
from dbrun.models.base import Model, SamplingConditions, families
from dbrun.models.offload import find_offload
from dbrun.models.prompt_encoding import NOTHING_KNOWN, KnownOutputs, frozen_encoders
from dbrun.models.scheduling import scheduler_changes
from dbrun.naming import METRICS_FILE
from dbrun.options.objective import DEFAULT_UNMASKED_WEIGHT, check_objective
from dbrun.options.packages import OptionalPackage
from dbrun.options.trackers import TRACKER_PACKAGES
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.preprocess import Preprocess
from dbrun.stages.sources import Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base, quantisation_packages
from dbrun.stages.support.cost import adapter_labels, denoiser_labels
from dbrun.stages.support.held_out import held_out_indices
from dbrun.stages.support.memory import CountedMemory
from dbrun.stages.support.memory_advice import (
    adapter_advice,
    offload_advice,
    precision_advice,
    quantise_advice,
    resolution_advice,
)
from dbrun.stages.support.memory_phases import train_memory
from dbrun.stages.support.prompt_index import PromptIndex
from dbrun.stages.support.train_resume import (
    checkpoint_writer,
    resume,
    save_and_stop,
    with_weights,
    write_candidates,
)
from dbrun.stages.support.training_length import training_length
from dbrun.training.settings import TrainParams
from dbrun.workload import Workload

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.training.batches import Batches
    from dbrun.training.dry_run import DryRun
    from dbrun.training.evaluation import HeldOutEvaluator
    from dbrun.training.loop import Metrics, Trainer
    from dbrun.training.monitor import Monitor
    from dbrun.training.prompt_embeds import PromptEncoder


class Train(Stage[TrainParams]):
    """Trains the adapters; the artifact holds them, as that of `adapt` does, and metrics.jsonl with a line per step."""

    NAME: ClassVar[str] = "train"
    multi_process: ClassVar[bool] = True
    VERSION: ClassVar[int] = 5
    needs: ClassVar[tuple[str, ...]] = ("load", "adapt", "preprocess")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "peft", "accelerate",
                                            "safetensors")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.diffusion", "dbrun.images.manifest", "dbrun.models", "dbrun.options",
        "dbrun.seeds", "dbrun.stages.support.base_loading",
        "dbrun.stages.support.prompt_index", "dbrun.stages.support.train_resume", "dbrun.training")

    def params(self, recipe: Recipe, sources: Sources) -> TrainParams:
        """The recipe's `train` and `objective`, the prior's weight and target, the seed, and the held-out pictures."""
        train = recipe.train
        steps = training_length(recipe, sources).steps
        # only what differs from the common rate or stops early: a recipe that says the default has the same key
        rates: dict[str, float] = {}
        stops: dict[str, int] = {}
        for name, adapter in recipe.adapt.components.items():
            own_rate = adapter.learning_rate
            if own_rate is not None and own_rate != train.learning_rate:
                rates[name] = own_rate * train.learning_rate_scale
            stop = adapter.stop_step(steps)
            if stop is not None:
                stops[name] = stop
        prior_weight = recipe.prior.weight if recipe.prior else 0.0
        prior_target = recipe.prior.target if recipe.prior else "images"
        return TrainParams.resolve(
            train,
            steps=steps,
            learning_rate=train.learning_rate * train.learning_rate_scale,
            precision=train.resolved_precision,
            class_labels=train.class_labels or families()[recipe.base.type].class_labels[0],
            prior_weight=prior_weight,
            prior_target=prior_target,
            seed=recipe.seed,
            learning_rates=rates,
            stops=stops,
            objective=recipe.objective,
            guidance=1.0 if train.guidance is None else train.guidance,
            quantise=recipe.base.quantise,
            reduced_over=recipe.launch.reduced_over,
            held=held_out_indices(recipe, sources))

    def extendable_params(self, params: TrainParams) -> tuple[str, ...]:
        """`steps`, where the learning rate of a step does not depend on their number."""
        if params.schedule.depends_on_steps:
            return ()
        return ("steps",)

    def restarts_on(self, params: TrainParams) -> Mapping[str, str]:
        """`steps`, where the learning rate of every step depends on their number."""
        if not params.schedule.depends_on_steps:
            return {}
        return {"steps": f"the learning rates of `{params.schedule.NAME}` depend on how many steps there are"}

    def required_packages(self, params: TrainParams) -> tuple[OptionalPackage, ...]:
        """The package of the optimizer, unless torch or transformers has it, and that of the quantisation."""
        package = params.optimizer.REQUIRED_PACKAGE
        packages = [package] if package else []
        packages += quantisation_packages(params.quantise)
        # one package may be both
        return tuple(dict.fromkeys(packages))

    def optional_packages(self, recipe: Recipe) -> tuple[OptionalPackage, ...]:
        """The packages of the trackers."""
        return tuple(TRACKER_PACKAGES[name] for name in recipe.trackers or ())

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The number of steps and the pixels of each; for memory, a micro-batch's pixels and the adapters' size."""
        train, steps = recipe.train, training_length(recipe, sources).steps
        size = cost.adapter_size(sources.base, recipe.adapt)
        halves = 1 if recipe.prior is None else 2
        micro = float(train.batch_size * halves * recipe.images.resolution**2)
        samples = recipe.samples if recipe.samples.every else None
        prior_target = recipe.prior.target if recipe.prior else "images"
        # written into the store's history and compared as text: changed words would forget earlier timings
        like = (*adapter_labels(recipe.adapt), train.resolved_precision, train.optimizer.NAME, f"tf32 {train.tf32}",
                f"checkpointing {train.gradient_checkpointing}", f"ema {train.ema is not None}",
                f"held out {train.held_out}", f"samples {samples}", f"target {prior_target}",
                *denoiser_labels(recipe.base))
        like += tuple(name for name in ("compile", "graph") if getattr(train, name))
        adapters = 1
        if train.candidates is not None:
            adapters += len(train.candidates.steps_until(steps))
        disk = {".safetensors": adapters * size, METRICS_FILE: steps}
        return Workload(steps, micro * train.accumulation, (micro, size), disk, like)

    def count_memory(self, recipe: Recipe, sources: Sources, dry_run: DryRun) -> CountedMemory:
        """The denoiser and the encoders that learn, adapters with their optimizer, and one micro-batch."""
        params, preprocess = self.params(recipe, sources), Preprocess()
        crops, cached_prompts = preprocess.count_items(recipe, sources)
        instance = {picture.prompt for picture in sources.pictures}
        halves = 1 if recipe.prior is None else 2
        rows = halves * params.batch_size
        prompts = min(len(instance), params.batch_size) + (halves - 1)
        return train_memory(dry_run, recipe, params, rows=rows, prompts=min(max(prompts, 1), rows),
                            cached_prompts=cached_prompts, crops=crops)

    def memory_advice(self, recipe: Recipe, device: str) -> tuple[str, ...]:
        """What shrinks the activations of a step, then what shrinks weights and optimizer."""
        train, advice = recipe.train, list[str]()
        if not train.gradient_checkpointing:
            advice.append("set `train.gradient_checkpointing: true`")
        if train.batch_size > 1:
            advice.append("lower `train.batch_size` and raise `train.accumulation` instead")
        advice += (*precision_advice(recipe), *quantise_advice(recipe, device), *offload_advice(recipe, device))
        others = [f"`adapt.{name}`" for name in recipe.adapt.adapters if name != "denoiser"]
        if others and "denoiser" in recipe.adapt.adapters:
            advice.append(f"leave out {' and '.join(others)}")
        return (*advice, *resolution_advice(recipe), *adapter_advice(recipe))

    def max_disk_bytes(self, ctx: StageContext[TrainParams]) -> int:
        """The kept checkpoints, one more while it is written, the candidates, and the adapters with their metrics."""
        params, weights = ctx.params, cost.artifact_bytes(ctx.inputs["adapt"])
        # 1000 bytes for a step's metrics
        history = 1000 * params.steps
        # the optimizer's moments, the averages and the best weights are as large as the weights each
        copies: int = params.optimizer.STATES_PER_WEIGHT + (params.ema is not None) + (params.held_out is not None)
        checkpoint = weights * (1 + copies) + history
        candidates = 0
        if params.candidates is not None:
            # twice: in the work folder and in the result
            candidates = 2 * len(params.candidates.steps_until(params.steps))
        return checkpoint * (ctx.runtime.keep + 1) + weights * (1 + candidates) + history + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[TrainParams]) -> None:
        """Train from the newest checkpoint, or from the start, to the last step; write adapters and metrics."""
        from dbrun.adapters.adapter_io import read_adapters, write_adapters
        from dbrun.training.recompute import enable_gradient_checkpointing
        from dbrun.training.speedups import speedups

        adapters = read_adapters(ctx.inputs["adapt"].path)
        model = _prepare_base(ctx)
        for component, adapter in adapters.items():
            adapter.attach_to(model.module(component))
        offload = find_offload(model.denoiser)
        if offload is not None:
            offload.place_adapters()
        if ctx.runtime.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        prompt_encoder = _prompt_encoders(ctx, model, tuple(adapters))
        trainer = _make_trainer(ctx, model, tuple(adapters), prompt_encoder)
        batches = _make_batches(ctx, model, trainer)
        trainer.evaluator = _make_evaluator(ctx, batches, prompt_encoder)

        resume(ctx, trainer)
        monitor = _make_monitor(ctx, model, trainer, num_halves=len(batches.halves))
        writer = checkpoint_writer(ctx, trainer)
        with speedups(model, ctx.params, ctx.note) as trainer.speedups:
            try:
                monitor.start()
                for done in trainer.run(batches):
                    monitor.log_step(done)
                    # before the samples: what fails while drawing loses no step
                    save_and_stop(ctx, trainer, writer)
                    monitor.draw_samples()
            finally:
                monitor.close()
                writer.close()

        _note_best_step(ctx, trainer)
        write_adapters(ctx.out, with_weights(adapters, trainer.adapter_states()))
        write_candidates(ctx, trainer, adapters)
        # the whole history, also of steps that an earlier run did: checkpoints carry it
        lines = [_metrics_line(metrics) for metrics in trainer.history]
        (ctx.out / METRICS_FILE).write_text("".join(lines), encoding="utf-8")


def _prepare_base(ctx: StageContext[TrainParams]) -> Model:
    """The base with the scheduler of the objective. Raises RecipeError where the objective does not fit the base."""
    from dbrun.training.device import allow_tf32, channels_last

    model = load_base(ctx, ctx.params.precision, quantise=ctx.params.quantise,
                      deterministic=ctx.params.deterministic)
    # offloaded and quantised weights have layouts of their own
    plain = not ctx.runtime.offload and ctx.params.quantise is None
    if model.device.type == "cuda" and plain and not ctx.params.deterministic:
        ctx.resident.settings.enter_context(channels_last(model.denoiser))
    if ctx.params.tf32:
        allow_tf32()
    objective, config = ctx.params.objective, model.scheduler.config
    # planning checks this, too, but cannot for a base that was fetched only afterwards
    for key, message, fix in check_objective(objective, model.family.process, config):
        raise RecipeError(f"`{key}`: {message}", fix=fix)
    changes = scheduler_changes(config, objective.prediction, objective.zero_terminal_snr)
    # the copy shares the weights, and has the base's own settings
    model = model.with_scheduler_changes(changes)
    model.guidance = ctx.params.guidance
    return model


def _make_trainer(ctx: StageContext[TrainParams], model: Model, components: tuple[str, ...],
                  prompt_encoder: Callable[[], PromptEncoder]) -> Trainer:
    """The trainer at step 0. prompt_encoder: makes one."""
    from dbrun.training.gradient_sync import GradientSync
    from dbrun.training.loop import Trainer

    # an encoder of its own: prompts that it keeps were encoded without adapters
    base_prompt_encoder = None
    if ctx.params.prior_target == "base":
        base_prompt_encoder = prompt_encoder()
    group = ctx.process_group
    gradient_sync = GradientSync(group.rank, group.size, group.check_alive, fast=ctx.params.reduced_over > 1)
    return Trainer(model, components, prompt_encoder(), ctx.params,
                   base_prompt_encoder=base_prompt_encoder, gradient_sync=gradient_sync)


def _make_batches(ctx: StageContext[TrainParams], model: Model, trainer: Trainer) -> Batches:
    """The micro-batches of the stored pictures, without those that are held out."""
    from dbrun.training.batches import Batches
    from dbrun.training.evaluation import without_held_out
    from dbrun.training.latent_cache import load_latents, load_loss_masks, load_time_ids, picture_sets
    from dbrun.training.noise import Noise

    objective, params, folder = ctx.params.objective, ctx.params, ctx.inputs["preprocess"].path
    unmasked = objective.unmasked_weight
    if unmasked is None:
        unmasked = DEFAULT_UNMASKED_WEIGHT
    latents = load_latents(folder)
    # where the base is the target, the class half shows the instance images over and over, prompt after prompt
    manifest = _read_index(ctx).manifest(latents, shared=params.prior_target == "base")
    all_pictures = picture_sets(manifest, latents, load_loss_masks(folder, unmasked), load_time_ids(folder))
    halves = without_held_out(all_pictures, frozenset(params.held))
    noise = Noise(objective.noise_offset, objective.input_perturbation, objective.pyramid_noise)
    return Batches(halves, params.seed, params.batch_size, trainer.process.num_timesteps,
                   lambda stored, randn: model.sample_x0(stored, randn, params.class_labels), objective.timesteps,
                   noise, partial(model.timestep_shift, objective.timesteps.wanted_shift))


def _make_evaluator(ctx: StageContext[TrainParams], batches: Batches,
                    prompt_encoder: Callable[..., PromptEncoder]) -> HeldOutEvaluator | None:
    """The held-out evaluation; None where no picture is held out. prompt_encoder: makes one."""
    from dbrun.training.evaluation import HeldOutEvaluator

    choice = ctx.params.held_out
    if choice is None:
        return None
    held_out = [batches.held_out_batch(i, place, choice.draws) for place, i in enumerate(ctx.params.held)]
    return HeldOutEvaluator(choice, held_out, prompt_encoder(keep=False))


def _make_monitor(ctx: StageContext[TrainParams], model: Model, trainer: Trainer, *, num_halves: int) -> Monitor:
    """The monitor of this training. num_halves: 1, or 2 with class rows."""
    from dbrun.training.monitor import Monitor
    from dbrun.training.param_groups import trains_text_encoders

    runtime, samples = ctx.runtime, ctx.runtime.samples
    frozen = frozen_encoders(model.family, trainer.modules)

    @cache
    def known() -> KnownOutputs:
        assert samples is not None, "else nothing is drawn"
        return model.encoder_outputs((*samples.prompts, ""), frozen)

    @cache
    def encoded() -> Mapping[str, SamplingConditions]:
        assert samples is not None, "else nothing is drawn"
        conditions = model.sampling_conditions(samples.prompts, known())
        model.release_text_encoders()
        return conditions

    def draw(columns: Sequence[int]) -> Sequence[Image]:
        assert samples is not None, "else nothing is drawn"
        start = None
        # such a base has blocks of one
        if samples.starts is not None:
            start = samples.starts.start_image(columns[0], ctx.files, samples.resolution, model.family)
        prompts = [samples.prompts[column] for column in columns]
        # a trained encoder encodes anew each time; a frozen one needs to be in memory only once
        conditions = model.sampling_conditions(prompts, known()) if trains_text_encoders(model) else encoded()
        return model.generate_block([conditions[prompt] for prompt in prompts],
                                    [samples.seed + column for column in columns], steps=samples.steps,
                                    guidance=samples.guidance, resolution=samples.resolution, start_image=start)

    # only rank 0 writes files: the history is the same in every process
    run_folder = None if ctx.process_group.rank else runtime.run_folder
    images_per_step = ctx.params.batch_size * ctx.params.accumulation * num_halves
    return Monitor(trainer, ctx, run_folder=run_folder, work=ctx.work, name=runtime.name, trackers=runtime.trackers,
                   samples=samples, draw=draw, images_per_step=images_per_step,
                   steps_per_epoch=runtime.steps_per_epoch)


def _note_best_step(ctx: StageContext[TrainParams], trainer: Trainer) -> None:
    """Tell the user which weights are kept, where they are the best ones instead of the last."""
    from dbrun.training.evaluation import best_step

    done, best = len(trainer.history), best_step(trainer.history)
    if trainer.evaluator is None or not trainer.evaluator.best_states or best is None:
        return
    early = f"stopped after step {done} of {ctx.params.steps}; " if done < ctx.params.steps else ""
    ctx.note(f"{early}the held-out loss was smallest after step {best}; the weights of that step are kept")


def _prompt_encoders(ctx: StageContext[TrainParams], model: Model,
                     components: tuple[str, ...]) -> Callable[..., PromptEncoder]:
    """Makes prompt encoders: live where a text encoder or a new word trains, else cached. `keep`: see `live_prompts`.

    All of them share what `preprocess` stored: what the text encoders give that do not train.
    """
    from dbrun.training.latent_cache import load_conditions, load_encoder_outputs
    from dbrun.training.prompt_embeds import cached_prompts, live_prompts

    folder, texts = ctx.inputs["preprocess"].path, _read_index(ctx).prompts
    frozen = frozen_encoders(model.family, components)
    if len(frozen) == len(model.family.text_encoders):
        cached = cached_prompts(model, load_conditions(folder, len(texts)))
        return lambda keep=True: cached
    known = load_encoder_outputs(folder, texts, frozen, model.dtype) if frozen else NOTHING_KNOWN
    return partial(live_prompts, model, texts, known=known)


def _read_index(ctx: StageContext[TrainParams]) -> PromptIndex:
    return PromptIndex.read(ctx.inputs["preprocess"].path)


def _metrics_line(metrics: Metrics) -> str:
    """The line of a step in metrics.jsonl."""
    from dbrun.training.loop import metrics_as_json

    return json.dumps(metrics_as_json(metrics)) + "\n"
