"""Runs from Python: the command's results, nothing left behind in the process, and no run in the next one."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import RECIPE, Project, lay_out

import dbrun
from dbrun.api.run import WARM_BASES
from dbrun.errors import StageFailed
from dbrun.events import Event, Progress, RunFailed, RunFinished, StageStarted
from dbrun.store.atomic import umask


@dataclass(frozen=True)
class First:
    """The first run of a project: what it gave, told, and printed, and what was set in the process around it."""

    project: Project
    run: dbrun.Run
    events: list[Event]
    before: dict[str, Any]
    after: dict[str, Any]


def process_state() -> dict[str, Any]:
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {"folder": Path.cwd(), "environment": dict(os.environ), "umask": umask(),
            "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            "threads": torch.get_num_threads(), "dtype": torch.get_default_dtype(),
            "deterministic": torch.get_deterministic_debug_mode(), "grad": torch.is_grad_enabled(),
            "rng": torch.get_rng_state().tolist(),
            "flags": (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark)}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
    import torch

    project = lay_out(tmp_path_factory.mktemp("api"))
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DBRUN_STORE", raising=False)
        torch.set_num_threads(2)
        torch.backends.cudnn.benchmark = True
        before = process_state()
        run = dbrun.run(project.folder / "tiny.yaml", store=project.folder / "store",
                        outputs=project.folder / "outputs", on_event=events.append)
        after = process_state()
        torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False
        yield First(project, run, events, before, after)
    dbrun.release()


def again(first: First, *overrides: str, **options: Any) -> dbrun.Run:
    home = first.project.folder
    return dbrun.run(home / "tiny.yaml", *overrides, store=home / "store", outputs=home / "outputs", **options)


def test_the_process_is_as_before(first: First) -> None:
    assert first.after == first.before


def test_a_library_call_prints_nothing(first: First, capfd: pytest.CaptureFixture[str]) -> None:
    again(first, "train.steps=7")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_files_are_those_of_the_command_byte_for_byte(first: First, tmp_path: Path) -> None:
    by_command = Project(first.project.folder)
    store = tmp_path / "store"
    by_command.dbrun("run", "tiny.yaml", "--store", str(store), "--outputs", str(tmp_path / "outputs"))
    mine = again(first)
    assert mine.outputs is not None and mine.files
    for file in mine.files:
        assert file.read_bytes() == (tmp_path / "outputs" / "tiny" / file.relative_to(mine.outputs)).read_bytes()


def test_what_a_run_returns_is_on_record_and_in_its_last_event(first: First) -> None:
    run, last = first.run, first.events[-1]
    assert isinstance(last, RunFinished) and (last.run_id, last.seconds) == (run.id, run.seconds)
    assert run.outputs == first.project.folder / "outputs" / "tiny" and (run.ran, run.reused) == (6, 0)
    assert run.losses.keys() == {"loss", "instance_loss", "prior_loss"} and run.losses == last.losses
    assert all(file.is_file() for file in run.files) and [file.name for file in run.files].count("README.md") == 1
    recorded = {one.id: one for one in dbrun.runs("tiny", store=first.project.folder / "store")}
    assert recorded[run.id] == run
    assert json.loads(json.dumps(run.to_json()))["format_version"] == 1
    for event in first.events:
        document = json.loads(json.dumps(event.to_json()))
        assert document["format_version"] == 1 and document["time"] > 1.7e9


def test_data_finds_what_the_file_has_made(first: First) -> None:
    home = first.project.folder
    done = dbrun.run(yaml.safe_load(RECIPE), folder=home, store=home / "store", outputs=home / "outputs")
    assert (done.ran, done.reused) == (0, 6)


def test_components_stay_in_memory_bit_for_bit(first: First) -> None:
    """Adapters of each type, a trained text encoder and a new word: the next run finds the base as it is on disk."""
    import torch

    from dbrun.models.base import families

    again(first, "adapt={denoiser: {type: full}, text_encoder: {type: lora, rank: 2}}", "train.steps=2",
          "train.gradient_checkpointing=true", "export=[component]")
    again(first, "adapt.trigger={token: <sks>, initializer: dog, vectors: 3}", "train.steps=2",
          "subject.instance_prompt=a photo of <sks> dog", "export=[diffusers, embedding]", "samples.prompts=[<sks>]")
    kept = {key.name: module for key, module in WARM_BASES._kept.items()}
    assert kept.keys() >= {"unet", "vae"}
    family = families()["sd"]
    for name, module in kept.items():
        loaded = family.load_component(first.project.folder / "base", name, device=torch.device("cpu"),
                                       dtype=torch.float32, variant=None)
        mine, disk = module.state_dict(), loaded.state_dict()
        assert mine.keys() == disk.keys() and not module.training
        assert all(torch.equal(mine[key], disk[key]) for key in disk)
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not getattr(module, "is_gradient_checkpointing", False)


def test_a_further_run_reads_no_component_from_the_disk(first: First, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbrun.models.base import families

    again(first, "train.steps=3")
    monkeypatch.setattr(type(families()["sd"]), "load_component", lambda *args, **words: pytest.fail("it was loaded"))
    assert again(first, "train.learning_rate=2e-2", "train.steps=3").ran == 2


def test_cancelled_by_another_thread_it_goes_on_from_the_checkpoint(first: First) -> None:
    cancel, events = threading.Event(), list[Event]()

    def stop(event: Event) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.stage == "train" and event.done == 3:
            threading.Thread(target=cancel.set).start()
            cancel.wait()

    with pytest.raises(dbrun.Cancelled, match="cancelled; run the same recipe again"):
        again(first, "train.learning_rate=3e-2", on_event=stop, cancel=cancel)
    assert isinstance(events[-1], RunFailed) and events[-1].exit_code == 130
    resumed: list[Event] = []
    again(first, "train.learning_rate=3e-2", on_event=resumed.append)
    train = next(event for event in resumed if isinstance(event, StageStarted) and event.stage == "train")
    assert train.resumed and "from step 3" in train.reason


def test_ctrl_c_in_a_script_stays_a_keyboard_interrupt(first: First) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StageStarted):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(first, "train.learning_rate=4e-2", on_event=stop)
    newest = dbrun.runs(store=first.project.folder / "store")[0]
    assert newest.state == "interrupted"


def test_a_failed_stage_keeps_nothing_in_memory(first: First, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbrun.training.loop import Trainer

    monkeypatch.setattr(Trainer, "step", lambda *args: 1 / 0)
    with pytest.raises(StageFailed, match="ZeroDivisionError"):
        again(first, "train.learning_rate=5e-2")
    assert not WARM_BASES._kept and process_state()["deterministic"] == 0
