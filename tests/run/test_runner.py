"""A run does what is left to do, once, and tells what it did."""

import errno
import json
import os
import signal

import pytest
from stub_outcomes import flip
from stub_world import Counted, Export, Train, go, resolved, stub_stages

from dbrun.errors import DbrunError, Interrupted, StageFailed, UsageError, WorkPending
from dbrun.events import (
    Note,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageReused,
    StageStarted,
)
from dbrun.plan import device
from dbrun.plan.selection import Selection
from dbrun.recipe.load import load_recipe
from dbrun.run import runner
from dbrun.run.runner import execute, last_run
from dbrun.store.runs import PINNED_FILE, list_runs
from dbrun.store.store import Store

ORDER = ("load", "adapt", "generate-priors", "preprocess", "train", "export")


@pytest.fixture
def runs(fresh, monkeypatch):
    """Reads what the stages really did since it was last read."""
    log = fresh / "runs"
    monkeypatch.setenv("STUB_RUNS", str(log))

    def read():
        lines = log.read_text().splitlines() if log.exists() else []
        log.write_text("")
        return lines

    return read


def weights(home, name="stub"):
    return (home / "outputs" / name / "peft" / "weights").read_text()


def changed(stage, **members):
    """The stub stages with one of them replaced by a variant."""
    return {**stub_stages(), stage.NAME: type(stage.__name__, (stage,), members)()}


def test_the_first_run_does_everything_the_second_nothing(home, runs):
    first = go(home)
    assert first.ran == ORDER and first.reused == ()
    assert runs().count("train") == 1
    second = go(home)
    assert second.ran == () and second.reused == ORDER
    assert runs() == []
    assert first.artifacts == second.artifacts


def test_events_tell_the_story(home):
    told = []
    outcome = go(home, emit=told.append)
    assert isinstance(told[0], RunStarted) and told[0].stages == ORDER and told[0].run_id == outcome.run_id
    assert [e.stage for e in told if isinstance(e, StageStarted)] == list(ORDER)
    assert [e.stage for e in told if isinstance(e, StageFinished)] == list(ORDER)
    assert [e.done for e in told if isinstance(e, Progress)] == [1, 2, 3, 4, 5, 6]
    delivered = home / "outputs" / "stub"
    files = tuple(sorted(str(p.relative_to(delivered)) for p in delivered.rglob("*") if p.is_file()))
    assert told[-1] == RunFinished(6, 0, outcome.seconds, str(delivered), outcome.run_id,
                                   tuple(name for name in files if name != "dbrun.json"))
    again = []
    go(home, emit=again.append)
    assert [type(e) for e in again] == [RunStarted, *[StageReused] * 6, RunFinished]


def test_the_run_is_recorded(home):
    outcome = go(home, "train.steps=7")
    recipe = json.loads((outcome.folder / "recipe.json").read_text())
    assert recipe["train"]["steps"] == 7 and recipe["schema"] == "dbrun/v1"
    assert set(json.loads((outcome.folder / "keys.json").read_text())) == set(ORDER)
    lines = [json.loads(line) for line in (outcome.folder / "events.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "run_started" and lines[-1]["event"] == "run_finished"
    assert outcome.folder.name == outcome.run_id and outcome.run_id.endswith("-stub")


def test_the_last_run_is_remembered(home, monkeypatch):
    monkeypatch.chdir(home)
    assert last_run(Store(home / "store")) is None
    go(home, "train.steps=7")
    last = last_run(Store(home / "store"))
    assert last.path == "r.yaml" and last.overrides == ("train.steps=7",)


def test_a_change_runs_what_depends_on_it(home):
    go(home)
    before = weights(home)
    assert go(home, "export=[peft]").ran == ("export",)
    assert go(home, "adapt.denoiser.rank=8").ran == ("adapt", "train", "export")
    assert go(home, "name=other").ran == ()
    assert weights(home, "other") == before != weights(home)


def test_equal_bytes_end_a_rerun_early(home):
    go(home)
    outcome = go(home, select=Selection(force=("load", "adapt")))
    assert outcome.ran == ("load", "adapt")


def test_longer_training_goes_on_and_ends_as_if_never_cut(home, fresh, runs):
    from stub_world import make_home

    go(home)
    runs()
    assert go(home, "train.steps=9").ran == ("train", "export")
    assert runs().count("  step") == 3
    other = make_home(fresh / "other")
    go(other, "train.steps=9")
    assert weights(home) == weights(other)


def test_shorter_training_uses_only_earlier_checkpoints(home, fresh, runs):
    from stub_world import make_home

    go(home, "train.steps=9")
    runs()
    go(home, "train.steps=5")
    assert runs().count("  step") == 1
    other = make_home(fresh / "other")
    go(other, "train.steps=5")
    assert weights(home) == weights(other)


def test_one_more_picture_and_more_priors_make_only_what_is_new(home, runs):
    go(home)
    runs()
    (home / "pictures" / "new.png").write_text("new")
    go(home)
    assert runs().count("  picture") == 1
    go(home, "prior.count=6")
    assert runs().count("  prior") == 2


def test_force_does_it_again_from_nothing(home, runs):
    go(home)
    runs()
    assert go(home, select=Selection(force=("train", "generate-priors"))).ran == ("generate-priors", "train")
    lines = runs()
    assert lines.count("  step") == 6 and lines.count("  prior") == 4


def test_until_only_and_from(home, runs):
    assert go(home, select=Selection(until="preprocess")).ran == ("load", "generate-priors", "preprocess")
    assert not (home / "outputs").exists()
    with pytest.raises(WorkPending, match="adapt") as caught:
        go(home, "adapt.denoiser.rank=3", "subject.class_prompt=a photo of a dog", select=Selection(only="train"))
    words = f"dbrun stage adapt {home}/r.yaml adapt.denoiser.rank=3 'subject.class_prompt=a photo of a dog'"
    assert words in caught.value.fix
    go(home, select=Selection(until="adapt"))
    assert go(home, select=Selection(only="train")).ran == ("train",)
    assert go(home, select=Selection(from_="export")).ran == ("export",)
    with pytest.raises(UsageError):
        go(home, select=Selection(until="nowhere"))


def test_what_cannot_run_is_refused_before_anything_starts(home, runs, monkeypatch):
    monkeypatch.setattr(device, "why_unavailable", lambda name: "no CUDA device is here" if name == "cuda" else None)
    with pytest.raises(StageFailed, match="generate-priors cannot run: no CUDA device") as caught:
        go(home, "device=cuda")
    assert "device: auto" in caught.value.fix and runs() == []


def test_scratch_is_gone_and_only_what_can_go_on_is_kept(home):
    go(home)
    store = Store(home / "store")
    assert list(store.scratch.iterdir()) == []
    kept = [sorted(p.name for p in w.iterdir()) for w in (store.root / "work").iterdir()]
    assert sorted(kept) == [["checkpoints"], ["items"]]


def test_an_unforeseen_error_is_one_line_and_a_log(home):
    def broken(self, job):
        raise RuntimeError("the sky fell\nand more")

    with pytest.raises(StageFailed) as caught:
        go(home, stages=changed(Train, work=broken))
    assert caught.value.message == "train failed: RuntimeError: the sky fell"
    log = next((home / "store" / "runs").glob("*/log"))
    assert str(log) in caught.value.fix and "Traceback" in log.read_text()
    assert list(Store(home / "store").scratch.iterdir()) == []
    assert go(home).reused == ORDER[:4]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_disk_that_refuses_is_told_in_words(home, number):
    def full(self, job):
        raise OSError(number, os.strerror(number))

    with pytest.raises(StageFailed, match="train failed") as caught:
        go(home, stages=changed(Train, work=full))
    assert "Error" not in caught.value.message


def test_a_full_disk_is_known_also_from_other_libraries(home):
    def full(self, job):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(StageFailed, match="the disk is full"):
        go(home, stages=changed(Train, work=full))


def test_a_stage_that_leaves_a_link_is_a_bug_of_the_stage(home):
    def link(self, job):
        (job.out / "x").symlink_to("/etc/passwd")

    with pytest.raises(StageFailed, match="neither a file nor a folder"):
        go(home, stages=changed(Train, work=link))


def test_exit_inside_a_stage_is_a_failure(home):
    def leave(self, job):
        raise SystemExit(0)

    with pytest.raises(StageFailed, match="SystemExit"):
        go(home, stages=changed(Train, work=leave))


def at_step(number, action):
    """An emit that does something once training has done some steps."""
    def emit(event):
        if isinstance(event, Progress) and event.done == number:
            action()
    return emit


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_where_nothing_is_lost(home, fresh, runs, number, code):
    from stub_world import make_home

    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        go(home, emit=at_step(3, lambda: os.kill(os.getpid(), number)))
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before
    assert runs().count("  step") == 3
    told = []
    go(home, emit=told.append)
    assert runs().count("  step") == 4, "steps 3 to 6: the checkpoint was at step 2"
    started = next(e for e in told if isinstance(e, StageStarted) and e.stage == "train")
    assert started.resumed and "from step 2" in started.reason
    other = make_home(fresh / "other")
    go(other)
    assert weights(home) == weights(other)


def test_a_signal_between_stages_stops_before_the_next(home):
    def emit(event):
        if isinstance(event, StageFinished) and event.stage == "load":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        go(home, emit=emit)
    assert go(home).reused == ("load",)


def test_the_second_signal_stops_at_once(home):
    def stubborn(self, job):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")

    with pytest.raises(Interrupted) as caught:
        go(home, stages=changed(Train, work=stubborn))
    assert caught.value.exit_code == 130
    assert list(Store(home / "store").scratch.iterdir()) == []


@pytest.mark.parametrize(("stage", "change", "ran"), [
    ("train", "export=[peft]", ("train", "export")),
    ("adapt", "train.learning_rate=0.5", ("adapt", "train", "export")),
    ("preprocess", "train.learning_rate=0.5", ("preprocess", "train", "export")),
    ("export", "name=other", ("export",)),
])
def test_a_flipped_byte_never_spreads(home, fresh, stage, change, ran):
    from stub_world import make_home

    name = "other" if "name" in change else "stub"
    flip(go(home).artifacts[stage])
    told = []
    assert go(home, change, emit=told.append).ran == ran
    notes = [e for e in told if isinstance(e, Note) and e.level == "warning"]
    assert [n.stage for n in notes] == [stage] and "other bytes" in notes[0].text
    assert len(list((home / "store" / "quarantine").iterdir())) == 1
    other = make_home(fresh / "other")
    go(other, change)
    assert weights(home, name) == weights(other, name)


def test_a_flipped_item_never_spreads(home, fresh):
    from stub_world import make_home

    first = go(home)
    for file in (home / "store" / "objects").rglob("image"):
        file.chmod(0o644)
        file.write_text("0" * 64)
    told = []
    go(home, "prior.count=6", emit=told.append)
    assert sum("damaged item" in e.text for e in told if isinstance(e, Note)) == 4
    other = make_home(fresh / "other")
    again = go(other, "prior.count=6")
    assert weights(home) == weights(other) and again.artifacts["load"].digest == first.artifacts["load"].digest


def test_how_a_run_failed_is_told_and_written_down(home):
    def broken(self, job):
        raise RuntimeError("the sky fell")

    told = []
    with pytest.raises(StageFailed) as caught:
        go(home, emit=told.append, stages=changed(Train, work=broken))
    assert told[-1] == RunFailed("train", "train failed: RuntimeError: the sky fell", caught.value.fix, 1)
    events = next((home / "store" / "runs").glob("*/events.jsonl")).read_text().splitlines()
    assert json.loads(events[-1])["event"] == "run_failed"


def test_a_refused_and_an_interrupted_run_tell_so(home):
    told = []
    with pytest.raises(WorkPending):
        go(home, emit=told.append, select=Selection(only="train"))
    assert [(type(e), e.stage, e.exit_code) for e in told] == [(RunFailed, None, 3)]

    def twice(self, job):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        go(home, emit=told.append, stages=changed(Train, work=twice))
    assert isinstance(told[-1], RunFailed) and (told[-1].stage, told[-1].exit_code) == ("train", 130)


def test_a_failure_between_stages_blames_none(home):
    def emit(event):
        told.append(event)
        if isinstance(event, StageFinished) and event.stage == "load":
            os.kill(os.getpid(), signal.SIGTERM)

    told = []
    with pytest.raises(Interrupted):
        go(home, emit=emit)
    assert told[-1].stage is None and told[-1].exit_code == 143


@pytest.mark.parametrize("stage", ["load", "preprocess", "train", "export"])
@pytest.mark.parametrize("damage", ["truncate", "delete", "empty"])
def test_damage_in_the_store_is_healed(home, stage, damage):
    first = go(home)
    before = weights(home)
    for file in [p for p in first.artifacts[stage].path.rglob("*") if p.is_file()][:1]:
        file.chmod(0o644)
        file.unlink() if damage == "delete" else file.write_text("" if damage == "empty" else "cut")
    told = []
    second = go(home, emit=told.append)
    assert stage in second.ran and second.artifacts == first.artifacts
    assert any(isinstance(e, Note) and e.level == "warning" and "damaged" in e.text for e in told)
    assert len(list((home / "store" / "quarantine").iterdir())) == 1
    assert weights(home) == before
    assert go(home).ran == ()


def test_a_lost_trace_is_made_again_on_the_same_object(home):
    first = go(home)
    for trace in (home / "store" / "traces").rglob("*.json"):
        trace.write_bytes(trace.read_bytes()[:40])
    second = go(home)
    assert second.ran == ORDER and second.artifacts == first.artifacts
    assert not (home / "store" / "quarantine").exists()


def test_a_base_that_changes_meanwhile_spoils_no_key(home):
    (home / "weights").write_text("good")

    def record(self, job):
        import hashlib

        files = {"weights": hashlib.sha256(b"good").hexdigest()}
        (job.out / "base.json").write_text(json.dumps({"files": files}))

    def late(self, job):
        (home / "weights").write_text("evil")
        (job.out / "x").write_text("made from what?")

    from stub_world import Load

    world = {**changed(Load, work=record), "train": changed(Train, work=late)["train"]}
    with pytest.raises(StageFailed, match="not what `load` verified"):
        go(home, stages=world)
    (home / "weights").write_text("good")
    assert "train" in go(home, stages=changed(Load, work=record)).ran


def test_a_picture_that_changes_after_it_was_read_loses_no_work(home):
    def late(self, job):
        (home / "pictures" / "0.png").write_text("changed")
        (job.out / "adapter").write_text("made from what was read before")

    assert "train" in go(home, stages=changed(Train, work=late)).ran


def test_the_base_is_checked_against_what_load_found(home):
    (home / "weights").write_text("good")

    def record(self, job):
        import hashlib

        files = {"weights": hashlib.sha256(b"good").hexdigest()}
        (job.out / "base.json").write_text(json.dumps({"files": files}))

    from stub_world import Load

    stages = changed(Load, work=record)
    go(home, stages=stages, select=Selection(until="adapt"))
    (home / "weights").write_text("evil")
    with pytest.raises(StageFailed, match="weights differs"):
        go(home, "adapt.denoiser.rank=8", stages=stages)
    (home / "weights").write_text("good")
    go(home, "adapt.denoiser.rank=8", stages=stages)


def test_load_alone_sees_an_unverified_base(home):
    seen = {}

    def look(self, job):
        seen[job.stage] = job.base

    from stub_world import Load

    go(home, stages=changed(Load, work=look), select=Selection(until="load"))
    assert seen == {"load": home}


def test_a_job_holds_what_the_stage_declared_and_nothing_else(home):
    seen = {}

    def look(self, job):
        seen.update(inputs=set(job.inputs), params=job.params, files=set(job.files), runtime=job.runtime,
                    empty=not list(job.out.iterdir()), numerics=job.numerics)
        Train.work(self, job)

    go(home, "train.keep=7", stages=changed(Train, work=look))
    assert seen["inputs"] == {"load", "adapt", "preprocess"}
    assert (seen["runtime"].checkpoint_every, seen["runtime"].keep) == (2, 7)
    assert seen["empty"] and seen["numerics"].device == "cpu"
    assert seen["files"] == set(resolved(home).files)


def test_an_error_for_people_passes_as_it_is(home):
    class Own(DbrunError):
        exit_code = 2

    def refuse(self, job):
        raise Own("no")

    with pytest.raises(Own):
        go(home, stages=changed(Train, work=refuse))


def test_a_store_that_cannot_be_written_is_a_clear_error(home):
    (home / "store").write_text("a file")
    with pytest.raises(DbrunError, match="store"):
        go(home)


def test_a_hub_base_is_pinned_before_anything_runs(home, fresh, monkeypatch):
    from dataclasses import replace

    from dbrun.resolve import sources

    known, asked = resolved(home), []

    def pin(loaded, found, store):
        asked.append(found.unpinned_revision)
        return replace(known, notes=(Note("base", "main is commit …"),))

    monkeypatch.setattr(runner, "pin_revision", pin)
    told = []
    loaded = load_recipe(home / "r.yaml")
    execute(loaded, replace(known, unpinned_revision="main"), Store(home / "store"), emit=told.append,
            outputs=home / "outputs", stages=stub_stages())
    first = [type(event).__name__ for event in told].index("StageStarted")
    assert asked == ["main"] and isinstance(told[0], RunStarted)
    assert told[1:first] == [*known.notes, Note("base", "main is commit …")], "said under the run's name, and recorded"
    assert sources.pin_revision(loaded, known, Store(home / "store")) is known


def test_two_runs_at_once_do_not_share_a_record(home):
    from dbrun.plan.history import create_run_folder

    store = Store(home / "store")
    assert len({create_run_folder(store, "x") for _ in range(20)}) == 20


def test_stages_without_files_are_fine(home):
    go(home, stages=changed(Export, work=lambda self, job: None))
    assert json.loads((home / "outputs" / "stub" / "dbrun.json").read_text())["files"] == {}
    assert issubclass(Export, Counted)


def test_of_runs_that_found_nothing_to_do_the_newest_stays(home):
    def recorded():
        return {run.folder for run in list_runs(Store(home / "store"))}

    worked = go(home).folder
    pinned = go(home).folder
    (pinned / PINNED_FILE).touch()
    idle = [go(home).folder for _ in range(3)][-1]
    assert recorded() == {worked, pinned, idle}
    # it delivers again, which is work
    (home / "outputs/stub/peft/weights").unlink()
    delivered = go(home).folder
    other = go(home, "train.steps=9").folder
    again = [go(home, "train.steps=9").folder for _ in range(2)][-1]
    back = go(home).folder
    assert recorded() == {worked, pinned, idle, delivered, other, again, back}
