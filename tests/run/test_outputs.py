"""Delivered folders are complete, current, and never at someone's cost."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from stub_world import Counted, ExportParams, go, stub_stages

from dbrun.errors import DbrunError
from dbrun.events import Note, RunFailed, StageFinished, StageStarted
from dbrun.plan.selection import Selection
from dbrun.recipe.schema.model import Recipe
from dbrun.run.outputs import FORMAT, Delivery, deliver
from dbrun.stages.base import Sources, StageContext


@pytest.fixture
def out(home):
    go(home)
    return home / "outputs" / "stub"


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def state(folder):
    return {p.relative_to(folder).as_posix(): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def test_files_and_facts_are_delivered(out):
    assert set(tree(out)) == {"diffusers/weights", "peft/weights", "kohya/weights", "dbrun.json"}
    facts = json.loads((out / "dbrun.json").read_text())
    assert facts["format_version"] == 1 and facts["recipe"]["name"] == "stub"
    assert set(facts["stages"]) == {"load", "adapt", "generate-priors", "preprocess", "train", "export"}
    assert set(facts["stages"]["train"]) == {"key", "digest", "created", "seconds"}
    assert facts["versions"]["dbrun"] and facts["machine"]["device"] == "cpu"
    assert os.access(out / "peft" / "weights", os.W_OK), "a copy is the user's own"


def test_no_place_and_no_secret_is_delivered(home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    go(home, "subject.images=" + str(home / "pictures"), "base.path=" + str(home / "weights"), "name=other")
    text = (home / "outputs" / "other" / "dbrun.json").read_text()
    assert "hf_verysecret" not in text and str(home) not in text
    recipe = json.loads(text)["recipe"]
    assert recipe["subject"]["images"] == "…/pictures" and recipe["base"]["path"] == "…/weights"


def test_what_is_intact_is_not_touched(home, out):
    before = state(out.parent)
    go(home)
    assert state(out.parent) == before


@pytest.mark.parametrize("harm", [
    lambda out: (out / "peft" / "weights").write_text("changed"),
    lambda out: (out / "peft" / "weights").unlink(),
    lambda out: (out / "dbrun.json").write_text("{"),
    lambda out: (out / "dbrun.json").write_text("[]"),
    shutil.rmtree,
])
def test_what_is_missing_or_changed_is_delivered_again(home, out, harm):
    before = {n: t for n, t in tree(out).items() if n != "dbrun.json"}
    harm(out)
    assert go(home).ran == ()
    # what was changed is the user's, and kept beside
    assert tree(out).pop("peft/weights-kept", b"changed") == b"changed"
    assert {n: t for n, t in tree(out).items() if n not in ("dbrun.json", "peft/weights-kept")} == before
    assert json.loads((out / "dbrun.json").read_text())["files"]


def test_a_new_result_replaces_the_old_one(home, out):
    before = tree(out)["peft/weights"]
    go(home, "train.steps=9", "export=[peft]")
    assert set(tree(out)) == {"peft/weights", "dbrun.json"}
    assert tree(out)["peft/weights"] != before
    assert [p.name for p in out.parent.iterdir()] == ["stub"]


def test_a_recipe_that_changes_no_result_is_still_noted(home, out):
    go(home, "train.keep=9")
    assert json.loads((out / "dbrun.json").read_text())["recipe"]["train"]["keep"] == 9


def test_a_folder_of_someone_else_is_left_alone(home):
    theirs = home / "outputs" / "stub"
    theirs.mkdir(parents=True)
    (theirs / "thesis.txt").write_text("precious")
    told = []
    with pytest.raises(DbrunError, match="not written by dbrun"):
        go(home, emit=told.append)
    assert tree(theirs) == {"thesis.txt": b"precious"}
    assert [type(event) for event in told] == [RunFailed], "nothing ran for it"
    go(home, "name=other")


def test_a_folder_that_someone_made_meanwhile_is_left_alone(home):
    theirs = home / "outputs" / "stub"

    def emit(event):
        if isinstance(event, StageFinished) and event.stage == "export":
            theirs.mkdir(parents=True)
            (theirs / "thesis.txt").write_text("precious")

    with pytest.raises(DbrunError, match="not written by dbrun"):
        go(home, emit=emit)
    assert tree(theirs) == {"thesis.txt": b"precious"}


def link_to_nothing(outputs):
    outputs.symlink_to(outputs.parent / "nowhere")


@pytest.mark.parametrize(("make", "said"), [
    (lambda outputs: outputs.write_text("a file"), "outputs is not a folder"),
    (link_to_nothing, "outputs is a link that leads nowhere"),
])
def test_no_stage_runs_where_outputs_can_be_no_folder(home, make, said):
    make(home / "outputs")
    told = []
    with pytest.raises(DbrunError, match=said) as caught:
        go(home, emit=told.append)
    assert "move" in caught.value.fix and caught.value.exit_code == 1
    assert not any(isinstance(event, StageStarted) for event in told)
    assert go(home, select=Selection(until="train")).ran, "without a delivery it does not matter"


def test_no_stage_runs_where_outputs_cannot_be_written(home, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != home)
    told = []
    with pytest.raises(DbrunError, match="no permission") as caught:
        go(home, emit=told.append)
    assert "DBRUN_STORE" not in caught.value.fix
    assert not any(isinstance(event, StageStarted) for event in told)


def test_an_intact_delivery_needs_no_permission(home, out, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert go(home).outputs == out


def test_outputs_that_were_written_again_are_told(home, out):
    told = []
    go(home, emit=told.append)
    assert not any(isinstance(event, Note) for event in told)
    (out / "peft" / "weights").unlink()
    go(home, emit=told.append)
    assert Note("export", f"{out} written again") in told


def test_a_file_in_the_way_is_left_alone_an_empty_folder_is_used(home):
    (home / "outputs").mkdir()
    (home / "outputs" / "stub").write_text("precious")
    with pytest.raises(DbrunError, match="not written by dbrun"):
        go(home)
    assert (home / "outputs" / "stub").read_text() == "precious"
    (home / "outputs" / "other").mkdir()
    go(home, "name=other")
    assert (home / "outputs" / "other" / "peft" / "weights").exists()


def test_files_put_beside_the_delivered_ones_stay(home, out):
    (out / "notes.txt").write_text("mine")
    (out / "peft" / "more").write_text("mine too")
    go(home)
    go(home, "train.steps=9", "export=[diffusers]")
    assert tree(out)["notes.txt"] == b"mine" and tree(out)["peft/more"] == b"mine too"
    assert "peft/weights" not in tree(out)


def test_an_own_file_steps_aside_for_a_delivered_one_and_is_told(home):
    go(home, "export=[diffusers]")
    out, told = home / "outputs" / "stub", []
    own = {"kohya": b"a file where a folder comes", "peft/weights": b"of the same name", "diffusers/a\\b": b"odd",
           "loras/mine": b"in a folder of one's own", "diffusers/weights": b"edited"}
    for name, content in own.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(content)
    (out / "empty").mkdir()
    (out / "linked").symlink_to(home / "pictures")
    (out / "peft" / "link").symlink_to("nowhere")
    go(home, emit=told.append)
    moved = {"kohya-kept": "kohya", "peft/weights-kept": "peft/weights", "diffusers/weights-kept": "diffusers/weights",
             "diffusers/a\\b": "diffusers/a\\b", "loras/mine": "loras/mine"}
    found = tree(out)
    assert {old: found[now] for now, old in moved.items()} == own
    assert {"diffusers/weights", "peft/weights", "kohya/weights"} <= set(found)
    assert (out / "empty").is_dir() and (out / "linked").readlink() == home / "pictures"
    assert (out / "peft" / "link").is_symlink()
    said = [event.text for event in told if isinstance(event, Note) and event.level == "warning"]
    assert said == [f"{out / name} was your own file, or changed by you: it is now {out / name}-kept"
                    for name in ("diffusers/weights", "kohya", "peft/weights")]
    go(home, "export=[peft]")
    assert {old: tree(out)[now] for now, old in moved.items()} == own


def test_an_own_folder_steps_aside_for_a_delivered_file(home):
    out = home / "outputs" / "stub"
    go(home, stages=with_leaflet())
    own = out / "leaflet.txt"
    own.unlink()
    own.mkdir()
    (own / "mine").write_text("precious")
    go(home, stages=with_leaflet())
    assert (out / "leaflet.txt").is_file() and (out / "leaflet-kept.txt" / "mine").read_text() == "precious"


def test_a_link_to_a_folder_elsewhere_stays_a_link(home, out):
    elsewhere = home / "large disk" / "dog"
    elsewhere.parent.mkdir()
    out.rename(elsewhere)
    out.symlink_to(elsewhere)
    (elsewhere / "notes.txt").write_text("mine")
    go(home, "export=[peft]")
    assert out.readlink() == elsewhere and set(tree(elsewhere)) == {"peft/weights", "notes.txt", "dbrun.json"}
    assert [p.name for folder in (elsewhere.parent, out.parent) for p in folder.iterdir()] == ["dog", "stub"]
    shutil.rmtree(elsewhere)
    told = []
    with pytest.raises(DbrunError, match="which is not there"):
        go(home, "train.steps=9", emit=told.append)
    assert out.is_symlink() and not any(isinstance(event, StageStarted) for event in told)


@pytest.mark.parametrize(("call", "after"), [("rename", 1), ("rename", 2), ("fsync", 1), ("fsync", 3), ("mkdir", 1),
                                             ("mkdir", 2)])
def test_a_failing_delivery_leaves_the_old_one(home, out, monkeypatch, call, after):
    before = tree(out)
    go(home, "train.steps=9", "name=other")
    real, count = getattr(os, call), []

    def failing(*args, **kwargs):
        count.append(1)
        if len(count) == after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    from dbrun.store.store import Store

    store = Store(home / "store")
    trace = next(t for t in store.traces.recent("export", 9))
    monkeypatch.setattr(os, call, failing)
    with pytest.raises(DbrunError, match="full"):
        deliver(of_export(trace), out, {"recipe": {"changed": True}, "stages": {}}, store, print)
    monkeypatch.undo()
    assert tree(out) == before
    assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []


def of_export(trace):
    return Delivery({"export": trace}, stub_stages(), "stub")


def dead_name():
    code = "from dbrun.store.atomic import temp_name; print(temp_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_killed_delivery_left_is_finished(home, out):
    go(home)
    dead = dead_name()
    aside = out.parent / f".stub.old.{dead}"
    out.rename(aside)
    (aside / "notes.txt").write_text("mine")
    (out.parent / f".stub.new.{dead}").mkdir()
    (out.parent / ".stub.new.not-ours").mkdir()
    go(home)
    assert tree(out)["notes.txt"] == b"mine" and "peft/weights" in tree(out)
    assert sorted(p.name for p in out.parent.iterdir()) == [".stub.new.not-ours", "stub"]


@pytest.mark.parametrize("whole", [True, False], ids=["beside a whole one", "alone"])
def test_a_folder_that_was_being_emptied_never_becomes_the_delivery(home, out, whole):
    go(home)
    dead = dead_name()
    emptied = out.parent / f".stub.emptied.{dead}"
    (emptied / "peft").mkdir(parents=True)
    (emptied / "peft" / "notes.txt").write_text("mine")
    if whole:
        out.rename(out.parent / f".stub.old.{dead}")
    else:
        shutil.rmtree(out)
    go(home)
    assert tree(out)["peft/notes.txt"] == b"mine" and "peft/weights" in tree(out)
    assert [p.name for p in out.parent.iterdir()] == ["stub"]


def test_a_folder_that_another_process_moves_while_it_is_emptied_is_looked_at_again(home, out, monkeypatch):
    """The other process swaps the target: for a moment nothing has its name."""
    real, calls = os.mkdir, []
    (out / "peft" / "sub").mkdir()
    (out / "peft" / "sub" / "notes.txt").write_text("mine")
    (out / "mine.txt").write_text("mine")

    def away(path, *args, **kwargs):
        if Path(path).name == "peft" and Path(path).parent == out and not calls:
            calls.append(path)
            out.rename(out.parent / "elsewhere")
        elif calls and not out.exists():
            pytest.fail(f"made {path} while another process had the target's name")
        return real(path, *args, **kwargs)

    def back(seconds):
        # other threads sleep, too
        with suppress(FileNotFoundError):
            (out.parent / "elsewhere").rename(out)

    monkeypatch.setattr(os, "mkdir", away)
    monkeypatch.setattr(time, "sleep", back)
    go(home, "train.steps=9")
    assert calls and tree(out)["peft/sub/notes.txt"] == b"mine" and tree(out)["mine.txt"] == b"mine"
    assert [p.name for p in out.parent.iterdir()] == ["stub"]


def test_a_second_delivery_of_the_same_is_none(home, out):
    from dbrun.store.store import Store

    store = Store(home / "store")
    trace = next(store.traces.recent("export", 1))
    facts = {"recipe": {}, "stages": {}}
    assert deliver(of_export(trace), home / "x" / "y", facts, store, print)
    assert not deliver(of_export(trace), home / "x" / "y", facts, store, print)
    assert json.loads((home / "x" / "y" / "dbrun.json").read_text())["format_version"] == FORMAT


class Signed(Counted):
    """An export with a file that has the run's name, and one that shows it."""

    NAME = "export"
    delivers = True

    def params(self, recipe: Recipe, sources: Sources) -> ExportParams:
        return ExportParams(("signed",))

    def work(self, job: StageContext[Any]) -> None:
        (job.out / "file").write_text("bytes")
        (job.out / "card").write_text("by NAME")

    def delivered_names(self, files, run_name):
        return {"file": f"{run_name}.file", "card": "card"}

    def write_run_name(self, copy, run_name, names):
        text = copy.read_text()
        copy.write_text(text.replace("NAME", run_name))
        return "NAME" in text


def test_the_runs_name_is_written_into_the_copies_alone(home):
    stages = stub_stages() | {"export": Signed()}
    for name in ("one", "two"):
        go(home, f"name={name}", stages=stages)
        out = home / "outputs" / name
        assert set(tree(out)) == {f"{name}.file", "card", "dbrun.json"} and tree(out)["card"] == f"by {name}".encode()
        before = state(out)
        assert go(home, f"name={name}", stages=stages).ran == () and state(out) == before, "it is current"
    (out / "two.file").write_text("mine")
    go(home, "name=two", stages=stages)
    assert tree(out)["two.file"] == b"bytes" and tree(out)["two-kept.file"] == b"mine"


class Leaflet(Counted):
    """A second stage whose files go to the outputs."""

    NAME = "leaflet"
    needs = ("export",)
    delivers = True
    FILE = "leaflet.txt"

    def params(self, recipe: Recipe, sources: Sources) -> ExportParams:
        return ExportParams(("leaflet",))

    def work(self, job: StageContext[Any]) -> None:
        path = job.out / self.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(job.inputs["export"].digest)


class SameName(Leaflet):
    """One that would replace a file of the export."""

    FILE = "peft/weights"


class InTheWay(Leaflet):
    """One whose file would stand where the export has a folder."""

    FILE = "peft"


class Record(Leaflet):
    """One that would replace dbrun's own record."""

    FILE = "dbrun.json"


def with_leaflet(kind=Leaflet):
    return {**stub_stages(), kind.NAME: kind()}


def test_the_files_of_two_stages_stand_side_by_side(home):
    assert go(home, stages=with_leaflet()).ran[-2:] == ("export", "leaflet")
    out = home / "outputs" / "stub"
    assert set(tree(out)) == {"diffusers/weights", "peft/weights", "kohya/weights", "leaflet.txt", "dbrun.json"}
    assert set(json.loads((out / "dbrun.json").read_text())["files"]) == set(tree(out)) - {"dbrun.json"}
    before = state(out)
    assert go(home, stages=with_leaflet()).ran == () and state(out) == before


@pytest.mark.parametrize("name", ["leaflet.txt", "peft/weights"])
def test_what_is_gone_of_either_stage_is_delivered_again(home, name):
    go(home, stages=with_leaflet())
    out = home / "outputs" / "stub"
    before = tree(out)[name]
    (out / name).unlink()
    told = []
    assert go(home, stages=with_leaflet(), emit=told.append).ran == ()
    assert tree(out)[name] == before
    assert [event.text for event in told if getattr(event, "stage", None) == "leaflet" and isinstance(event, Note)] == [
        f"{out} written again"]


@pytest.mark.parametrize(("kind", "said"), [
    (SameName, "leaflet and export both deliver peft/weights"),
    (InTheWay, "leaflet and export both deliver peft/weights"),
    (Record, "leaflet and dbrun itself both deliver dbrun.json")])
def test_two_files_of_one_name_are_refused_and_what_stands_stays(home, out, kind, said):
    before = tree(out)
    with pytest.raises(DbrunError, match=said):
        go(home, stages=with_leaflet(kind))
    assert tree(out) == before


def test_a_stage_that_does_not_deliver_leaves_no_file(home, monkeypatch):
    monkeypatch.setattr(Leaflet, "delivers", False)
    go(home, stages=with_leaflet())
    assert "leaflet.txt" not in tree(home / "outputs" / "stub")


def page(store: Any, run_id: str) -> bytes:
    return b"page of a run"


def test_a_report_is_delivered_once(home):
    """An earlier delivery gets one on the next run; afterwards nothing is written again, also by who draws none."""
    target = home / "outputs" / "stub"
    go(home)
    assert "report.html" not in tree(target)
    go(home, render_report=page)
    assert tree(target)["report.html"] == b"page of a run"
    assert set(json.loads((target / "dbrun.json").read_text())["files"]) == set(tree(target)) - {"dbrun.json"}
    before = state(target)
    go(home, render_report=lambda store, run_id: b"another")
    go(home)
    assert state(target) == before
    (target / "report.html").unlink()
    go(home, render_report=lambda store, run_id: b"another")
    assert tree(target)["report.html"] == b"another", "what is missing comes back"


def test_a_report_of_the_user_steps_aside(home, out):
    (out / "report.html").write_text("my own")
    notes: list[Any] = []
    go(home, render_report=page, emit=notes.append)
    assert tree(out)["report.html"] == b"page of a run" and tree(out)["report-kept.html"] == b"my own"
    assert any(isinstance(note, Note) and "report-kept.html" in note.text for note in notes)


def test_a_report_that_fails_costs_nothing_else(home):
    """The files are delivered, the user is told, and the next run tries again."""
    def fail(store: Any, run_id: str) -> bytes:
        raise RuntimeError("no room")

    notes: list[Any] = []
    go(home, render_report=fail, emit=notes.append)
    target = home / "outputs" / "stub"
    assert "diffusers/weights" in tree(target) and "report.html" not in tree(target)
    assert any(isinstance(note, Note) and note.text == "no report: RuntimeError: no room" for note in notes)
    go(home, render_report=page)
    assert tree(target)["report.html"] == b"page of a run"
