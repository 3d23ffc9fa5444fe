"""Is what is held out never trained on, always seen alike, and a reason to stop that a crash does not change?"""

import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from representatives import cases
from tiny_steps import batch, trainer
from tiny_training import PARAMS, PROMPTS, content, job, keep_latents, write_inputs
from tiny_training import load as base

from dbrun.errors import Interrupted
from dbrun.events import Event, Note
from dbrun.options.ema import Ema
from dbrun.options.held_out import HeldOut
from dbrun.stages.base import RuntimeOptions
from dbrun.stages.train import Train, _make_batches
from dbrun.training.evaluation import HeldOutEvaluator, best_step
from dbrun.training.gradient_sync import GradientSync

STOPPING = {"held": (2,), "held_out": HeldOut(every=1, patience=2), "learning_rate": 0.2, "steps": 12}
"""At this rate the tiny base gets worse soon."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("held")
    write_inputs(place)
    return place


def trained(home: Path, place: Path, name: str, work: str | None = None, **changes: object) -> dict[str, bytes]:
    Train().run(job(home, place / name, place / (work or f"{name}.work"), **changes))
    return content(place / name)


def rows(files: dict[str, bytes]) -> list[dict[str, float]]:
    return [json.loads(line) for line in files["metrics.jsonl"].splitlines()]


@pytest.mark.parametrize("target", ["images", "base"])
def test_no_epoch_holds_them(home: Path, tmp_path: Path, target: str) -> None:
    ctx = job(home, tmp_path / "o", tmp_path / "w", held=(0, 2), prior_target=target)
    batches = _make_batches(ctx, base(home), SimpleNamespace(process=SimpleNamespace(num_timesteps=1000)))
    instance, classes = (half.epoch(0).pictures for half in batches.halves)
    assert instance == (1,)
    assert classes == ((1,) if target == "base" else (0, 1, 2, 3))


@pytest.mark.slow
def test_each_look_is_at_the_same_and_changes_nothing(home: Path, tmp_path: Path) -> None:
    """A rate of next to nothing leaves the loss where it was; looking often or never gives the same adapter."""
    still = {"learning_rate": 1e-30, "held": (1,), "held_out": HeldOut(every=2, draws=3)}
    losses = [row.get("held_out_loss") for row in rows(trained(home, tmp_path, "still", **still))]
    assert losses[1] is not None and losses == [None, losses[1]] * 3
    often, never = (trained(home, tmp_path, f"every {n}", held=(1,), held_out=HeldOut(every=n)) for n in (1, 1000))
    assert often["denoiser.safetensors"] == never["denoiser.safetensors"]
    assert len({row["held_out_loss"] for row in rows(often)}) == 6
    assert not any("held_out_loss" in row for row in rows(never))


def test_the_loss_is_that_of_the_picture_at_spread_timesteps(home: Path, tmp_path: Path) -> None:
    batches = _make_batches(job(home, tmp_path / "o", tmp_path / "w"), base(home),
                            SimpleNamespace(process=SimpleNamespace(num_timesteps=1000)))
    a, b = batches.held_out_batch(1, 0, 4), batches.held_out_batch(2, 1, 4)
    assert a.t.tolist() == b.t.tolist() == [125, 375, 625, 875] and a.num_instances == 4
    assert torch.equal(batches.held_out_batch(1, 0, 4).noise, a.noise) and not torch.equal(a.noise, b.noise)
    assert len({row.sum().item() for row in a.noise}) == 4
    assert not torch.equal(a.noise[0], batches(0).noise[0]), "training has draws of its own"


def test_it_stops_where_the_loss_has_not_fallen_and_keeps_the_best(home: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    files = trained(home, tmp_path, "stopping", **STOPPING, emit=said.append)
    losses = [row["held_out_loss"] for row in rows(files)]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2 < STOPPING["steps"]
    shorter = trained(home, tmp_path, "best", **{**STOPPING, "steps": best, "held_out": HeldOut(every=1)})
    assert files["denoiser.safetensors"] == shorter["denoiser.safetensors"]
    notes = [e.text for e in said if isinstance(e, Note)]
    assert any(f"stopped after step {best + 2} of 12" in n and f"after step {best};" in n for n in notes)


def test_a_stop_by_the_loss_is_the_same_after_any_interruption(home: Path, tmp_path: Path) -> None:
    unbroken = trained(home, tmp_path, "unbroken", **STOPPING)
    length = len(rows(unbroken))
    for stopped in range(1, length + 1):
        asked: list[Event] = []
        with pytest.raises(Interrupted):
            trained(home, tmp_path, f"{stopped}", **STOPPING, emit=asked.append, runtime=RuntimeOptions(1000, 2),
                    stop_signal=lambda n=stopped, asked=asked: signal.SIGTERM if len(asked) >= n else 0)
        assert trained(home, tmp_path, f"{stopped}", **STOPPING) == unbroken
    assert trained(home, tmp_path, "longer", "unbroken.work", **{**STOPPING, "steps": 20}) == unbroken


def test_the_look_is_at_the_averages_where_those_are_exported(home: Path, tmp_path: Path) -> None:
    how = {"held": (1,), "held_out": HeldOut(every=6)}
    plain, averaged = (trained(home, tmp_path, f"{ema}", **how, ema=ema) for ema in (None, Ema(decay=0.9)))
    a, b = (rows(files)[-1] for files in (plain, averaged))
    assert a["loss"] == b["loss"] and a["held_out_loss"] != b["held_out_loss"]


@pytest.mark.parametrize("seed", cases([0, 1, 2], 0))
def test_averages_that_are_looked_at_leave_a_stopped_text_encoder_alone(tmp_path: Path, seed: int) -> None:
    """A look's prompt comes in training only later: kept from the look, it would be what the average made of it."""
    write_inputs(tmp_path / "home", components=("denoiser", "text_encoder"))
    keep_latents(tmp_path / "home" / "preprocess", "instance")
    index = {"prompts": PROMPTS, "instance": [0, 1, 1], "class": []}
    (tmp_path / "home" / "preprocess" / "index.json").write_text(json.dumps(index))
    own = {"stops": {"text_encoder": 2}, "ema": Ema(decay=0.9), "held": (1,), "batch_size": 1, "seed": seed}
    often, never = (trained(tmp_path / "home", tmp_path, f"every {n}", **own, held_out=HeldOut(every=n))
                    for n in (1, 1000))
    assert all(often[name] == never[name] for name in often if name.endswith(".safetensors"))


def test_the_rule() -> None:
    def history(*losses: float | None) -> list[SimpleNamespace]:
        return [SimpleNamespace(step=i + 1, held_out_loss=loss) for i, loss in enumerate(losses)]

    watch = HeldOutEvaluator(HeldOut(every=2, patience=2), [], lambda prompts: {})
    assert best_step(history(None, 3.0, None, 2.0, None, 2.0)) == 4 and best_step(history(None)) is None
    assert best_step(history(None, math.nan, None, 5.0)) == 4 and best_step(history(math.nan)) is None
    assert not watch.should_stop([]) and not watch.should_stop(history(None, 1.0, None, 2.0))
    assert not watch.should_stop(history(None, 1.0, None, 2.0, None))
    assert watch.should_stop(history(None, 1.0, None, 2.0, None, 3.0))
    assert not watch.should_stop(history(None, 1.0, None, 2.0, None, 0.5))
    assert PARAMS.held_out is None


def test_a_look_is_the_mean_over_the_pictures() -> None:
    losses = iter([1.0, 4.0])
    watch = HeldOutEvaluator(HeldOut(), [None] * 2, lambda prompts: {})
    assert watch.mean_loss(lambda batch, conditions: torch.tensor(next(losses))) == 2.5


def test_a_look_has_no_dropout_and_its_loss_is_what_the_processes_agree_on(
        home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate of next to nothing each look sees the same."""
    looked: list[float] = []
    monkeypatch.setattr(GradientSync, "broadcast", lambda self, value: (looked.append(value), 0.125)[1])
    trained = trainer(home, adapter={"dropout": 0.5}, steps=3, learning_rate=1e-30)
    for parameter in trained.parameters:
        parameter.data += 0.1
    trained.evaluator = HeldOutEvaluator(HeldOut(every=1), [batch(9)], trained.prompt_encoder)
    assert [done.held_out_loss for done in trained.run(batch)] == [0.125] * 3
    assert len(set(looked)) == 1 and trained.modules["denoiser"].training


def test_the_curve_has_a_line_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbrun.images import loss_plot
    from dbrun.stages import export

    drawn: list[dict[str, list[tuple[float, float]]]] = []
    plain = loss_plot.plot_losses
    monkeypatch.setattr(loss_plot, "plot_losses", lambda series: (drawn.append(series), plain(series))[1])
    lines = [{"step": 1, "instance_loss": 2.0, "prior_loss": None},
             {"step": 2, "instance_loss": 1.0, "prior_loss": None, "held_out_loss": 1.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    export._draw_loss_plot(SimpleNamespace(inputs={"train": SimpleNamespace(path=tmp_path)}, out=tmp_path))
    assert drawn[0]["held out"] == [(2, 1.5)] and (tmp_path / "loss.png").exists()
