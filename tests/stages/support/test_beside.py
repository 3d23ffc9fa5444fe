"""Do samples, trackers and the run's own metrics go on beside a training without touching it, and come back with it?"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_training import FAMILY, content, job, write_inputs

from dbrun.errors import Interrupted
from dbrun.events import Event, Note, Progress
from dbrun.options.trackers import TRACKER_PACKAGES
from dbrun.stages.base import RuntimeOptions
from dbrun.stages.support.sample_spec import SampleSpec
from dbrun.stages.train import Train
from dbrun.training import trackers as of_trackers
from dbrun.training.checkpoint import load_newest

COLUMNS = SampleSpec(every=2, prompts=("a photo of sks dog", "a photo of a dog"), steps=1, guidance=1.0, seed=3,
                     resolution=32, starts=None, block=4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("beside")
    write_inputs(place, dropout=0.3)
    return place


def trained(home: Path, place: Path, name: str = "out", *, record: str | None = "run",
            samples: SampleSpec | None = COLUMNS, trackers: tuple[str, ...] = (), **changes: Any) -> dict[str, bytes]:
    folder = place / record if record else None
    if folder:
        folder.mkdir(exist_ok=True)
    runtime = RuntimeOptions(1000, 2, samples=samples, trackers=trackers, run_folder=folder, name="tiny",
                             steps_per_epoch=1.5)
    Train().run(job(home, place / name, place / "work", runtime=runtime, **changes))
    return content(place / name)


def drawn(folder: Path) -> dict[str, bytes]:
    return content(folder / "samples") if (folder / "samples").is_dir() else {}


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_samples_and_trackers_change_no_byte_and_stand_in_the_runs_folder(home: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    merge_all = trained(home, tmp_path, emit=said.append)
    (tmp_path / "work").rename(tmp_path / "old")
    plain = trained(home, tmp_path, "plain", record=None, samples=None)
    assert merge_all == plain
    assert list(drawn(tmp_path / "run")) == [f"step-0000000{n}.png" for n in (2, 4, 6)]
    assert len(set(drawn(tmp_path / "run").values())) == 3, "each shows another adapter"
    with Image.open(tmp_path / "run" / "samples" / "step-00000002.png") as page:
        assert page.width > 2 * 256
    assert next(e.text for e in said if isinstance(e, Note)).endswith("run/samples/step-00000002.png")


def test_the_runs_metrics_tell_epochs_speed_and_memory_too(home: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    files = trained(home, tmp_path, samples=None, emit=seen.append)
    rows, kept = lines(tmp_path / "run"), [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in rows] == [n / 1.5 for n in range(1, 7)]
    more = {"epoch", "images_per_second", "memory_mib"}
    assert all({k: v for k, v in row.items() if k not in more} == own for row, own in zip(rows, kept, strict=True))
    assert all(row["images_per_second"] > 0 and row["memory_mib"] > 10 for row in rows)
    assert not more & set(kept[0])
    told = [e.metrics for e in seen if isinstance(e, Progress)]
    assert all({"step": n + 1, **metrics} == row for n, (metrics, row) in enumerate(zip(told, rows, strict=True)))


def test_a_resumed_run_has_the_samples_and_metrics_of_the_run_before(home: Path, tmp_path: Path) -> None:
    """Stopped in the step of a sample, after its checkpoint and before its pictures."""
    asked: list[Event] = []
    with pytest.raises(Interrupted):
        trained(home, tmp_path, record="one", emit=asked.append,
                stop_signal=lambda: signal.SIGTERM if sum(isinstance(e, Progress) for e in asked) >= 4 else 0)
    assert list(drawn(tmp_path / "one")) == ["step-00000002.png"]
    trained(home, tmp_path, record="two")
    assert list(drawn(tmp_path / "two")) == [f"step-0000000{n}.png" for n in (2, 4, 6)]
    assert drawn(tmp_path / "two")["step-00000002.png"] == drawn(tmp_path / "one")["step-00000002.png"]
    assert [row["step"] for row in lines(tmp_path / "two")] == [1, 2, 3, 4, 5, 6]
    (tmp_path / "work").rename(tmp_path / "old")
    trained(home, tmp_path, "unbroken", record="three")
    assert drawn(tmp_path / "three") == drawn(tmp_path / "two")


@pytest.mark.slow
def test_pictures_of_other_prompts_are_not_taken_for_these(home: Path, tmp_path: Path) -> None:
    trained(home, tmp_path, record="one", steps=4)
    other = SampleSpec(**{**vars(COLUMNS), "prompts": ("a cat",)})
    trained(home, tmp_path, "other", record="two", samples=other)
    assert list(drawn(tmp_path / "two")) == ["step-00000004.png", "step-00000006.png"]
    assert drawn(tmp_path / "two")["step-00000004.png"] != drawn(tmp_path / "one")["step-00000004.png"]


def test_a_checkpoint_stands_before_its_samples_and_a_failed_one_ends_nothing(
        home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[int] = []

    def broken(*_: object, **__: object) -> None:
        found, _damaged = load_newest(tmp_path / "work" / "checkpoints", at_most=99)
        there.append(found.step if found else 0)
        raise RuntimeError("out of memory")

    said: list[Event] = []
    with monkeypatch.context() as changed:
        changed.setattr(FAMILY.model, "generate_block", broken)
        files = trained(home, tmp_path, emit=said.append)
    assert there == [2, 4, 6] and drawn(tmp_path / "run") == {}
    assert [e.text for e in said if isinstance(e, Note) and e.level == "warning"] == [
        f"no samples after step {n}: RuntimeError: out of memory" for n in (2, 4, 6)]
    (tmp_path / "work").rename(tmp_path / "old")
    assert files == trained(home, tmp_path, "plain", record=None)


def test_a_failing_tracker_is_left_out_and_the_others_go_on(home: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept:
        def __init__(self, run: str, folder: Path, say: object) -> None:
            self.rows: list[tuple[str, Any]] = all_rows
            self.run_name = run

        def start(self) -> None:
            self.rows.append(("start", self.run_name))

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            self.rows.append(("config", values["learning_rate"]))

        def log(self, values: dict[str, float], step: int) -> None:
            self.rows.append(("log", (step, values["loss"])))

        def log_images(self, values: dict[str, Any], step: int) -> None:
            self.rows.append(("images", (step, list(values))))

        def finish(self) -> None:
            self.rows.append(("finish", None))

    class Breaks(Kept):
        def log(self, values: dict[str, float], step: int) -> None:
            if step == 2:
                raise ConnectionError("no network")

    all_rows: list[tuple[str, Any]] = []
    monkeypatch.setattr(of_trackers, "TRACKERS", {"wandb": Breaks, "tensorboard": Kept})
    said: list[Event] = []
    files = trained(home, tmp_path, trackers=("wandb", "tensorboard"), emit=said.append)
    steps = [what[0] for kind, what in all_rows if kind == "log"]
    assert steps == [1, 2, 3, 4, 5, 6] and [kind for kind, _ in all_rows].count("finish") == 1
    assert [what[0] for kind, what in all_rows if kind == "images"] == [2, 4, 6]
    assert all_rows[0] == ("start", "tiny") and ("config", 5e-3) in all_rows
    warned = [e.text for e in said if isinstance(e, Note) and e.level == "warning"]
    assert warned == ["wandb failed and is not used any more: ConnectionError: no network"]
    assert files == trained(home, tmp_path, "again", record=None)


def test_tensorboard_has_the_curves_and_the_pictures(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(home, tmp_path, trackers=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    found = events.Tags()
    assert {"loss", "instance_loss", "prior_loss", "learning_rate", "grad_norm", "epoch", "images_per_second",
            "memory_mib"} <= set(found["scalars"])
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in events.Images("0: a photo of sks dog")] == [2, 4, 6]


SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_offline_trackers_write_files_and_no_token(home: Path, tmp_path: Path, name: str, capfd: Any,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    if not TRACKER_PACKAGES[name].is_installed:
        pytest.skip(TRACKER_PACKAGES[name].install_command)
    for key in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(key, SECRET)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    said: list[Event] = []
    trained(home, tmp_path, trackers=(name,), emit=said.append)
    assert not [e for e in said if isinstance(e, Note) and e.level == "warning"]
    files = [Path(folder) / file for folder, _, names in os.walk(tmp_path) for file in names]
    own = [f for f in files if name in f.relative_to(tmp_path).parts[:-1] or name in f.parts]
    assert own and any(f.stat().st_size > 1000 for f in own)
    assert not [f for f in files if SECRET.encode() in f.read_bytes()]
    assert capfd.readouterr().out == "" and sys.stdout is not None
