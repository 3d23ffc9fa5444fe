"""Resuming of a training: its checkpoints and candidates, which lie in the work folder until it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.adapters.adapter_io import ComponentAdapter, write_adapters
from dbrun.errors import Interrupted, StageFailed
from dbrun.stages.base import StageContext
from dbrun.stages.support.candidates import candidate_folder
from dbrun.training.settings import TrainParams

if TYPE_CHECKING:
    from torch import Tensor

    from dbrun.training.checkpoint import Checkpoint, CheckpointWriter
    from dbrun.training.loop import Trainer

Context = StageContext[TrainParams]


def resume(ctx: Context, trainer: Trainer) -> None:
    """Restore the newest intact checkpoint with all its candidates, if there is one; all processes find the same."""
    checkpoint = _newest_with_candidates(ctx)
    if checkpoint is not None:
        trainer.restore(checkpoint)
        ctx.note(f"going on after step {checkpoint.step} of {ctx.params.steps}")
    trainer.gradient_sync.check_equal(len(trainer.history), "the step to resume after")


def checkpoint_writer(ctx: Context, trainer: Trainer) -> CheckpointWriter:
    """The writer of this training's checkpoints, to be closed after it."""
    from dbrun.training.checkpoint import CheckpointWriter

    return CheckpointWriter(_checkpoint_folder(ctx), ctx.runtime.keep, trainer.model.device)


def save_and_stop(ctx: Context, trainer: Trainer, writer: CheckpointWriter) -> None:
    """Save a candidate and a checkpoint where they are due; then raise Interrupted if a signal asked to stop.

    A checkpoint is due every `checkpoint_every` steps, before samples, at the last step, and before stopping.
    """
    step = len(trainer.history)
    # rank 0 hears the signal for all, so that every process stops after the same step
    signum = int(trainer.gradient_sync.broadcast(ctx.stop_signal()))
    intervals = [ctx.runtime.checkpoint_every]
    if ctx.runtime.samples:
        intervals.append(ctx.runtime.samples.every)
    due = any(step % interval == 0 for interval in intervals) or trainer.is_done or signum
    # before the checkpoint: a training that resumes after this step finds its candidate
    _save_candidate(ctx, trainer)
    if due and not ctx.process_group.rank:
        writer.write(trainer.checkpoint())
    if trainer.is_done or signum:
        writer.wait()
    if signum:
        raise Interrupted(signum)


def write_candidates(ctx: Context, trainer: Trainer, initial: Mapping[str, ComponentAdapter]) -> None:
    """Write every candidate of the finished training into its artifact. initial: the adapters before training.

    Raises StageFailed where a stored candidate was damaged since.
    """
    from dbrun.training.checkpoint import load_exactly

    choice, done = ctx.params.candidates, len(trainer.history)
    # rank 0 stores and publishes them; another process may be here before the last one is stored
    if choice is None or ctx.process_group.rank:
        return
    for step in choice.steps_until(done):
        if step % choice.every == 0:
            stored = load_exactly(_candidate_folder(ctx), step)
            if stored is None:
                raise StageFailed(f"the candidate of step {step} is damaged",
                                  fix="run the same command again: it trains again from before that step")
            states = _by_component(stored.tensors)
        else:
            # only the last step, which a longer training does not stop at
            states = trainer.eval_states()
        folder = candidate_folder(ctx.out, step)
        folder.mkdir(parents=True)
        write_adapters(folder, with_weights(initial, states))


def with_weights(initial: Mapping[str, ComponentAdapter],
                 states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, ComponentAdapter]:
    """The same adapters with other weights. states: component -> weights such as A [rank, in], float32."""
    adapters: dict[str, ComponentAdapter] = {}
    for name, adapter in initial.items():
        adapters[name] = ComponentAdapter(adapter.adapter, adapter.modules, states[name])
    return adapters


def _save_candidate(ctx: Context, trainer: Trainer) -> None:
    """Store the evaluation weights of this step in the work folder, if they are to become a candidate."""
    from dbrun.training.checkpoint import Checkpoint, save_alone

    choice, step = ctx.params.candidates, len(trainer.history)
    if choice is None or step % choice.every or ctx.process_group.rank:
        return
    tensors: dict[str, Any] = {}
    for component, state in trainer.eval_states().items():
        for name, tensor in state.items():
            tensors[f"{component}/{name}"] = tensor
    save_alone(_candidate_folder(ctx), Checkpoint(step, tensors, {}))


def _by_component(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Component -> weights such as A [rank, in], of the tensors of a stored candidate."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        component, name = key.split("/", 1)
        states.setdefault(component, {})[name] = tensor
    return states


def _newest_with_candidates(ctx: Context) -> Checkpoint | None:
    """The newest intact checkpoint that no candidate before it is missing from; warns of damaged ones."""
    from dbrun.training.checkpoint import load_newest

    at_most = ctx.params.steps
    while True:
        checkpoint, damaged = load_newest(_checkpoint_folder(ctx), at_most=at_most)
        for name in damaged:
            ctx.note(f"the checkpoint {name} is damaged; an older one is used", level="warning")
        lost = None if checkpoint is None else _first_lost_candidate(ctx, checkpoint.step)
        if lost is None:
            return checkpoint
        # the steps up to the lost one are trained again, and store it again
        ctx.note(f"the candidate of step {lost} is missing or damaged; training goes on before it", level="warning")
        at_most = lost - 1


def _first_lost_candidate(ctx: Context, done: int) -> int | None:
    """The first step up to `done` whose stored candidate is missing or damaged; None where all are there."""
    from dbrun.training.checkpoint import load_exactly

    choice = ctx.params.candidates
    if choice is None:
        return None
    for step in range(choice.every, done + 1, choice.every):
        if load_exactly(_candidate_folder(ctx), step) is None:
            return step
    return None


def _checkpoint_folder(ctx: Context) -> Path:
    return ctx.work / "checkpoints"


def _candidate_folder(ctx: Context) -> Path:
    return ctx.work / "candidates"
