"""Does the stage `train` end in the same bytes, however often it is stopped?"""

import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from representatives import cases
from safetensors.torch import load_file, save_file
from tiny_training import PARAMS, PROMPTS, content, job, load, run, write_inputs
from train_settings import changed

from dbrun.adapters.adapter_io import read_adapters
from dbrun.errors import Interrupted, StageFailed
from dbrun.events import Event, Note, Progress
from dbrun.models.base import Sampling
from dbrun.options.candidates import Candidates
from dbrun.options.ema import Ema
from dbrun.options.held_out import HeldOut
from dbrun.options.objective import Objective
from dbrun.options.schedules import Cosine
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import RuntimeOptions
from dbrun.stages.sources import BaseSource, Sources
from dbrun.stages.train import Train, _make_batches
from dbrun.training import checkpoint
from dbrun.training.checkpoint import Checkpoint, CheckpointWriter
from dbrun.training.sampler import micro_batch

STEPS = 16


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("train")
    write_inputs(place)
    return place


def trained(home: Path, place: Path, name: str, work: str | None = None, **changes: object) -> dict[str, bytes]:
    out = place / name
    Train().run(job(home, out, place / (work or f"{name}.work"), **changes))
    return content(out)


def test_the_artifact_is_an_adapter_and_a_line_per_step(home: Path, tmp_path: Path) -> None:
    files = trained(home, tmp_path, "out")
    rows = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]) == {"step", "loss", "instance_loss", "prior_loss", "learning_rate", "grad_norm"}
    before, after = (read_adapters(folder)["denoiser"] for folder in (home / "adapt", tmp_path / "out"))
    assert (after.adapter, after.modules, after.state.keys()) == (before.adapter, before.modules, before.state.keys())
    assert any(not after.state[name].equal(tensor) for name, tensor in before.state.items())


def test_progress_is_told_with_its_numbers(home: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    trained(home, tmp_path, "out", emit=events.append)
    seen = [e for e in events if isinstance(e, Progress)]
    assert [(e.done, e.total, e.unit) for e in seen] == [(n, 6, "steps") for n in range(1, 7)]
    assert set(seen[0].metrics) == {"loss", "instance_loss", "prior_loss", "learning_rate", "grad_norm", "epoch",
                                    "images_per_second", "memory_mib"}


def test_equal_jobs_give_equal_bytes_and_checkpoints_change_nothing(home: Path, tmp_path: Path) -> None:
    first = trained(home, tmp_path, "one")
    assert first == trained(home, tmp_path, "two", runtime=RuntimeOptions(1, 1))
    assert first == trained(home, tmp_path, "three", runtime=RuntimeOptions(1000, 9))
    assert first == trained(home, tmp_path, "four", runtime=RuntimeOptions(1000, 9, gradient_checkpointing=True))


def test_checkpoints_that_a_thread_writes_change_nothing(home: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    straight = trained(home, tmp_path, "straight")
    monkeypatch.setattr(checkpoint, "CheckpointWriter", lambda folder, keep, device: CheckpointWriter(
        folder, keep, torch.device("cuda")))
    assert trained(home, tmp_path, "other", runtime=RuntimeOptions(1, 3)) == straight
    kept = sorted((tmp_path / "other.work" / "checkpoints").iterdir())
    assert [int(path.name[5:13]) for path in kept] == [4, 5, 6]
    kept[-1].unlink()
    (tmp_path / "other").rename(tmp_path / "first")
    notes: list[Event] = []
    assert trained(home, tmp_path, "other", runtime=RuntimeOptions(1, 3), emit=notes.append) == straight
    assert any(isinstance(event, Note) and "going on after step 5 of 6" in event.text for event in notes)


def test_a_last_checkpoint_that_a_thread_cannot_write_is_told(home: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoint.save_checkpoint

    def full(folder: Path, state: Checkpoint, *, keep: int) -> Path:
        if state.step == 2:
            raise OSError(28, "No space left on device")
        return write(folder, state, keep=keep)

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    monkeypatch.setattr(checkpoint, "CheckpointWriter", lambda folder, keep, device: CheckpointWriter(
        folder, keep, torch.device("cuda")))
    with pytest.raises(OSError, match="No space left"):
        trained(home, tmp_path, "out", runtime=RuntimeOptions(1, 3), steps=2)


@pytest.fixture(scope="module")
def plain(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run without any change leaves."""
    return trained(home, tmp_path_factory.mktemp("plain"), "plain")


@pytest.mark.parametrize("change", cases([{"seed": 1}, {"learning_rate": 1e-3}, {"batch_size": 1}, {"accumulation": 2},
                                    {"max_grad_norm": 1e-9}, {"prior_weight": 0.5}, {"precision": "bf16"},
                                    {"learning_rates": {"denoiser": 1e-3}}, {"prior_target": "base"},
                                    {"optimizer": PARAMS.optimizer.model_copy(update={"weight_decay": 0.5})},
                                    {"schedule": Cosine(type="cosine")}, {"ema": Ema(decay=0.5)},
                                    {"held_out": HeldOut(), "held": (1,)}], 0, 3, 5, 8))
def test_every_param_shows_in_the_bytes(home: Path, tmp_path: Path, plain: dict[str, bytes],
                                        change: dict[str, object]) -> None:
    other = trained(home, tmp_path, "other", **change)
    assert plain["denoiser.safetensors"] != other["denoiser.safetensors"]


def test_no_limit_is_none_where_any_usual_one_would_clip(home: Path, tmp_path: Path) -> None:
    """The class half weighs so much that the gradients' norms are in the hundreds."""
    made = {limit: trained(home, tmp_path, f"{limit}", max_grad_norm=limit, prior_weight=1e4) for limit in (None, 1.0)}
    assert made[None]["denoiser.safetensors"] != made[1.0]["denoiser.safetensors"]


def test_a_signal_stops_after_a_checkpoint_and_the_same_job_goes_on(home: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def stop_signal() -> int:
        return signal.SIGTERM if len(asked) >= 3 else 0

    with pytest.raises(Interrupted) as stop:
        trained(home, tmp_path, "out", emit=asked.append, stop_signal=stop_signal, runtime=RuntimeOptions(1000, 2))
    assert stop.value.exit_code == 143 and content(tmp_path / "out") == {}
    events: list[Event] = []
    resumed = trained(home, tmp_path, "out", emit=events.append)
    assert [e.done for e in events if isinstance(e, Progress)] == [4, 5, 6]
    assert any(isinstance(e, Note) and "after step 3 of 6" in e.text for e in events)
    assert resumed == trained(home, tmp_path, "unbroken")


class Killed(Exception):
    """A crash right after a candidate was stored, before the checkpoint of its step."""


CANDIDATES = {"candidates": Candidates(every=2), "ema": Ema(decay=0.5)}


@pytest.fixture(scope="module")
def with_candidates(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The artifact of an unbroken training of five steps with a candidate every two."""
    return trained(home, tmp_path_factory.mktemp("candidates"), "out", steps=5, **CANDIDATES)


def test_a_candidate_is_what_a_training_that_ends_there_exports(
        home: Path, tmp_path: Path, with_candidates: dict[str, bytes]) -> None:
    names = {name for name in with_candidates if name.startswith("candidates/")}
    files = ("adapter.json", "denoiser.safetensors")
    assert names == {f"candidates/{step}/{file}" for step in (2, 4, 5) for file in files}
    shorter = trained(home, tmp_path, "shorter", steps=4, **CANDIDATES)
    for file in files:
        assert with_candidates[f"candidates/4/{file}"] == shorter[file] == shorter[f"candidates/4/{file}"]
        assert with_candidates[f"candidates/5/{file}"] == with_candidates[file]
    # more steps in the same work folder: more candidates, the earlier ones as they were
    longer = trained(home, tmp_path, "longer", "shorter.work", steps=5, **CANDIDATES)
    assert longer == with_candidates


def test_candidates_survive_a_kill_before_any_checkpoint_of_their_step(
        home: Path, tmp_path: Path, with_candidates: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    from dbrun.training import checkpoint

    save = checkpoint.save_checkpoint

    def kill(folder: Path, made: checkpoint.Checkpoint, *, keep: int) -> Path:
        if folder.name == "checkpoints" and made.step == 4:
            raise Killed
        return save(folder, made, keep=keep)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, "save_checkpoint", kill)
        trained(home, tmp_path, "out", steps=5, runtime=RuntimeOptions(1, 2), **CANDIDATES)
    assert trained(home, tmp_path, "out", steps=5, runtime=RuntimeOptions(1, 2), **CANDIDATES) == with_candidates


def test_a_damaged_candidate_is_trained_again(home: Path, tmp_path: Path, with_candidates: dict[str, bytes]) -> None:
    runtime = RuntimeOptions(1, 9)
    trained(home, tmp_path, "first", "work", steps=4, runtime=runtime, **CANDIDATES)
    (damaged,) = (tmp_path / "work" / "candidates").glob("step-00000002.*")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    events: list[Event] = []
    again = trained(home, tmp_path, "second", "work", steps=5, runtime=runtime, emit=events.append, **CANDIDATES)
    assert again == with_candidates
    assert any(isinstance(e, Note) and "candidate of step 2 is missing or damaged" in e.text for e in events)
    assert any(isinstance(e, Note) and "after step 1 of 5" in e.text for e in events)


def test_a_run_of_several_shapes_and_views_is_resumed_to_the_bit(tmp_path: Path) -> None:
    """Five pictures of three shapes, one of them in two views and masked; square class pictures; stops in an epoch."""
    write_inputs(tmp_path / "home")
    draw, folder = torch.Generator().manual_seed(0), tmp_path / "home" / "preprocess"
    shapes = {"instance.00000": (8, 12), "instance.00000.001": (8, 12), "instance.00001": (12, 8),
              "instance.00002": (8, 12), "instance.00003": (8, 8), "instance.00004": (8, 12),
              "class.00000": (8, 8), "class.00001": (8, 8)}
    save_file({name: torch.randn(8, *shape, generator=draw) for name, shape in shapes.items()},
              folder / "latents.safetensors")
    save_file({"instance.00000.001": (torch.rand(8, 12, generator=draw) > 0.5).float()}, folder / "masks.safetensors")
    (folder / "index.json").write_text(json.dumps({"prompts": PROMPTS, "instance": [1] * 5, "class": [0] * 2}))
    asked: list[int] = []
    with pytest.raises(Interrupted):
        trained(tmp_path / "home", tmp_path, "out", emit=asked.append, runtime=RuntimeOptions(1000, 2),
                stop_signal=lambda: signal.SIGTERM if len(asked) >= 3 else 0)
    resumed = trained(tmp_path / "home", tmp_path, "out")
    assert resumed == trained(tmp_path / "home", tmp_path, "unbroken")
    rows = [json.loads(line) for line in resumed["metrics.jsonl"].splitlines()]
    assert len(rows) == 6 and all(row["instance_loss"] > 0 < row["prior_loss"] for row in rows)


def test_a_checkpoint_stands_at_the_last_step(home: Path, tmp_path: Path) -> None:
    """A longer run goes on from it."""
    trained(home, tmp_path, "out", "work", runtime=RuntimeOptions(1000, 2))
    assert [path.name[:13] for path in (tmp_path / "work" / "checkpoints").iterdir()] == ["step-00000006"]


def test_a_damaged_checkpoint_is_told_and_an_older_one_used(home: Path, tmp_path: Path) -> None:
    unbroken = trained(home, tmp_path, "first", "work")
    newest = sorted((tmp_path / "work" / "checkpoints").iterdir())[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[-9] ^= 1
    newest.write_bytes(damaged)
    events: list[Event] = []
    assert trained(home, tmp_path, "second", "work", emit=events.append) == unbroken
    assert [e.done for e in events if isinstance(e, Progress)] == [5, 6]
    assert any(isinstance(e, Note) and e.level == "warning" and newest.name in e.text for e in events)


def test_a_longer_run_goes_on_and_a_shorter_one_uses_no_later_checkpoint(home: Path, tmp_path: Path) -> None:
    trained(home, tmp_path, "six", "work")
    events: list[Event] = []
    longer = trained(home, tmp_path, "nine", "work", steps=9, emit=events.append)
    assert [e.done for e in events if isinstance(e, Progress)] == [7, 8, 9]
    assert longer == trained(home, tmp_path, "nine alone", steps=9)
    assert trained(home, tmp_path, "four", "work", steps=4) == trained(home, tmp_path, "four alone", steps=4)


def test_steps_only_lengthen_where_the_schedule_has_no_horizon() -> None:
    assert Train().extendable_params(PARAMS) == ("steps",)
    assert Train().extendable_params(changed(PARAMS, schedule=Cosine(type="cosine"))) == ()


def test_a_stop_that_is_a_count_lengthens_and_one_that_is_a_share_is_another_run() -> None:
    def lineage(stop_at: float, steps: int) -> tuple[tuple[str, ...], object]:
        text_encoder = {"type": "lora", "stop_at": stop_at}
        recipe = Recipe.model_validate({
            "schema": "dbrun/v1", "name": "x", "base": {"path": "base"}, "train": {"steps": steps},
            "subject": {"images": "pictures", "instance_prompt": "a photo of sks dog"},
            "adapt": {"denoiser": {"type": "lora"}, "text_encoder": text_encoder}})
        params = Train().params(recipe, Sources(BaseSource("", "sd", None, None, {}, Sampling(2, 2.0)), ()))
        return Train().extendable_params(params), params.with_changes(steps=0)

    assert lineage(4.0, 8) == lineage(4.0, 12) == lineage(0.5, 8)
    assert lineage(0.5, 8) != lineage(0.5, 12)


@pytest.mark.parametrize("stopped", cases([3, 4, 5], 1))
def test_a_stopped_text_encoder_survives_an_interruption(tmp_path: Path, stopped: int) -> None:
    """Stopped before, at or after the text encoder's last step; the artifact is that of an unbroken run."""
    write_inputs(tmp_path / "home", components=("denoiser", "text_encoder"))
    own = {"learning_rates": {"text_encoder": 1e-3}, "stops": {"text_encoder": 4}}
    asked: list[Event] = []
    with pytest.raises(Interrupted):
        trained(tmp_path / "home", tmp_path, "out", emit=asked.append, runtime=RuntimeOptions(1000, 2), **own,
                stop_signal=lambda: signal.SIGTERM if len(asked) >= stopped else 0)
    resumed = trained(tmp_path / "home", tmp_path, "out", **own)
    unbroken, longer = trained(tmp_path / "home", tmp_path, "a", **own), trained(
        tmp_path / "home", tmp_path, "b", **{**own, "stops": {}})
    assert resumed == unbroken
    assert unbroken["text_encoder.safetensors"] != longer["text_encoder.safetensors"]
    rows = [json.loads(line) for line in unbroken["metrics.jsonl"].splitlines()]
    assert [row["learning_rate.text_encoder"] for row in rows] == [1e-3] * 4 + [0.0] * 2
    assert [row["learning_rate.denoiser"] for row in rows] == [row["learning_rate"] for row in rows] == [5e-3] * 6


def test_a_text_encoder_is_trained_without_cached_prompts(tmp_path: Path) -> None:
    write_inputs(tmp_path / "home", components=("denoiser", "text_encoder"))
    trained(tmp_path / "home", tmp_path, "out")
    before, after = (read_adapters(folder) for folder in (tmp_path / "home" / "adapt", tmp_path / "out"))
    assert set(after) == {"denoiser", "text_encoder"}
    for component, attached in before.items():
        moved = after[component].state
        assert any(not moved[name].equal(tensor) for name, tensor in attached.state.items())


def test_a_diverging_run_leaves_no_adapter(home: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed):
        trained(home, tmp_path, "out", learning_rate=1e30, max_grad_norm=None)
    assert content(tmp_path / "out") == {}


@pytest.mark.slow
def test_kill_at_any_instant_then_the_same_bytes(home: Path, tmp_path: Path) -> None:
    """SIGKILL at random instants; every attempt starts a process anew on the same work folder."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tiny_training", "dbrun.training.loop", "diffusers", "transformers", "peft"])

    def attempt(number: int) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=run, args=(home, tmp_path / f"out{number}", tmp_path / "work", STEPS))
        process.start()
        return process

    began = time.monotonic()
    run(home, tmp_path / "unbroken", tmp_path / "other work", STEPS)
    usual, kills, killed, chance = time.monotonic() - began, 40, 0, random.Random(1)
    attempt(0).join()
    (tmp_path / "work").rename(tmp_path / "finished work")
    for number in range(1, kills + 1):
        process = attempt(number)
        process.join(timeout=chance.uniform(0.05, usual))
        killed += process.is_alive()
        process.kill()
        process.join()
    last = attempt(kills + 1)
    last.join()
    assert last.exitcode == 0 and killed > 0
    assert content(tmp_path / f"out{kills + 1}") == content(tmp_path / "unbroken") == content(tmp_path / "out0")


def test_where_the_base_is_the_target_no_class_picture_is_read(tmp_path: Path) -> None:
    """Three instance pictures under two class prompts are six class rows; the first has not moved yet."""
    write_inputs(tmp_path / "home")
    latents = load_file(tmp_path / "home" / "preprocess" / "latents.safetensors")
    index = {"prompts": PROMPTS, "instance": [1] * 3, "class": [0] * 3 + [1] * 3}
    (tmp_path / "home" / "preprocess" / "index.json").write_text(json.dumps(index))
    files = trained(tmp_path / "home", tmp_path, "out", prior_target="base")
    rows = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    assert rows[0]["prior_loss"] < 1e-12 < 1e-6 < rows[-1]["prior_loss"]
    batches = _make_batches(job(tmp_path / "home", tmp_path / "o", tmp_path / "w", prior_target="base", batch_size=6),
                            load(tmp_path / "home"),
                            SimpleNamespace(process=SimpleNamespace(num_timesteps=1000)))
    shown = [f"instance.{i % 3:05d}" for i in range(6)]
    assert [[picture.prompt for picture in half.pictures] for half in batches.halves] == [[1] * 3, [0] * 3 + [1] * 3]
    assert [[picture.crops for picture in half.pictures] for half in batches.halves] == [
        [(name,) for name in shown[:3]], [(name,) for name in shown]]
    assert all(half.latents[name].equal(latents[name]) for half in batches.halves for name in shown)


def test_a_repeated_picture_stands_in_an_epoch_as_often(tmp_path: Path) -> None:
    write_inputs(tmp_path / "home")
    index = {"prompts": PROMPTS, "instance": [1] * 3, "class": [0] * 4, "repeats": [1, 3, 1]}
    (tmp_path / "home" / "preprocess" / "index.json").write_text(json.dumps(index))
    batches = _make_batches(job(tmp_path / "home", tmp_path / "o", tmp_path / "w", batch_size=5),
                            load(tmp_path / "home"),
                            SimpleNamespace(process=SimpleNamespace(num_timesteps=1000)))
    shown = [picture for _, picture in micro_batch(batches.halves[0].epoch(0), 5, 0)]
    assert sorted(shown) == [0, 1, 1, 1, 2] and len(batches(0).x0) == 10


@pytest.mark.slow
def test_how_little_what_a_mask_hides_counts_changes_what_is_learnt(tmp_path: Path) -> None:
    """The left half of every instance picture is shown by its mask."""
    write_inputs(tmp_path / "home")
    plain = trained(tmp_path / "home", tmp_path, "plain")
    mask = torch.zeros(8, 8)
    mask[:, :4] = 1.0
    save_file({f"instance.{i:05d}": mask.clone() for i in range(3)},
              tmp_path / "home" / "preprocess" / "masks.safetensors")
    made = [trained(tmp_path / "home", tmp_path, f"out{weight}", objective=Objective(unmasked_weight=weight))
            ["denoiser.safetensors"] for weight in (None, 0.1, 0.5)]
    assert made[0] == made[1] and len({plain["denoiser.safetensors"], *made}) == 3
