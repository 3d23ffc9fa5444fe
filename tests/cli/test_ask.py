"""Do the verbs that look say the same to people and to programs, with the right exit codes?"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fork_server import run_dbrun
from golden import Golden
from projects import STAGES

from dbrun.cli import complete
from dbrun.cli.app import HELP_SECTIONS
from dbrun.cli.verbs import VERB_MODULES
from dbrun.events import Event, Progress, StageStarted, TimeLeft
from dbrun.plan import doctor
from dbrun.plan.doctor import run_checks
from dbrun.recipe.new import StarterRequest, starter_recipe
from dbrun.stages.base import stages
from dbrun.store.atomic import temp_name
from dbrun.store.runs import EVENTS_FILE, LIVE_FILE
from dbrun.store.store import Store

READING = {"plan": ["dog.yaml"], "status": ["dog.yaml"], "explain": ["train", "dog.yaml"], "graph": ["dog.yaml"],
           "lock": ["dog.yaml"], "runs": [], "doctor": [], "validate": ["dog.yaml"], "ls": [], "du": []}

OLD, NEW = "20250101-120000.000001-dog", "20250102-120000.000001-cat"
"""The ids of two runs."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)
    (tmp_path / "dog.yaml").write_text(starter_recipe(StarterRequest("dog")))
    return tmp_path


def run(*words: str, check: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    done = run_dbrun(words, env={**os.environ, **env})
    assert done.returncode == check, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("verb", READING)
def test_a_reading_verb_speaks_json_with_a_version(folder: Path, verb: str) -> None:
    assert json.loads(run(verb, *READING[verb], "--json").stdout)["format_version"] == 1


def test_what_people_see_holds_no_colour_where_there_is_no_terminal(folder: Path) -> None:
    for verb in ("plan", "status", "graph", "doctor"):
        done = run(verb, *READING[verb])
        assert "\x1b" not in done.stdout + done.stderr and done.stdout.strip()


def test_help_names_every_verb_under_a_title_and_cuts_no_sentence_off(folder: Path) -> None:
    lines = run("--help", COLUMNS="80").stdout.splitlines()
    listed = [line.split()[0] for line in lines if re.match(r"  [a-z]+  +[A-Z]", line)]
    assert sorted(listed) == sorted(verb for verbs in VERB_MODULES.values() for verb in verbs)
    assert sorted(verb for verbs in HELP_SECTIONS.values() for verb in verbs) == sorted(listed)
    assert all(f"{title}:" in lines for title in HELP_SECTIONS) and "..." not in "".join(lines).replace("[ARGS]...", "")
    assert "<" not in run("run", "--help", COLUMNS="80").stdout, "arguments go by their names"


def test_the_lock_decides_the_exit_code(folder: Path, golden: Golden) -> None:
    run("plan", "dog.yaml", "--locked", check=2)
    assert run("lock", "dog.yaml").stdout.strip() == "dog.lock"
    run("plan", "dog.yaml", "--locked", "--exit-code")
    run("plan", "dog.yaml", "--exit-code", check=3)
    done = run("plan", "dog.yaml", "subject.images=embedded:zwx_car", "--locked", "--exit-code", check=3)
    golden("other pictures", done.stderr)


def test_a_lock_is_of_the_recipe_as_it_is_written(folder: Path, golden: Golden) -> None:
    (folder / "dog.yaml").write_text(starter_recipe(StarterRequest("dog"))
                                     + "profiles: {car: {subject: {images: 'embedded:zwx_car'}}}\n")
    run("lock", "dog.yaml", "train.steps=200")
    before = Path("dog.lock").read_bytes()
    for words in (["subject.images=embedded:zwx_car"], ["--profile", "car"]):
        golden(f"lock {' '.join(words)}", run("lock", "dog.yaml", *words, check=2).stderr)
        assert Path("dog.lock").read_bytes() == before
    (folder / "dog.yaml").write_text(starter_recipe(StarterRequest("dog")).replace("sks_dog", "zwx_car"))
    golden("run --locked", run("run", "dog.yaml", "--locked", check=3).stderr)


def test_a_run_that_is_locked_begins_only_where_the_lock_holds(folder: Path, golden: Golden) -> None:
    golden("without a lock", run("run", "dog.yaml", "--locked", check=2).stderr)
    run("lock", "dog.yaml")
    other = "subject.images=embedded:zwx_car"
    for words in (["run", "dog.yaml", other], ["stage", "load", "dog.yaml", other],
                  ["run", "dog.yaml", other, "--dry-run"]):
        done = run(*words, "--locked", check=3)
        golden(" ".join(words), done.stderr)
    lines = run("run", "dog.yaml", other, "--locked", "--json", check=3).stdout.splitlines()
    said = [json.loads(line) for line in lines]
    assert [(event["event"], event["exit_code"]) for event in said] == [("run_failed", 3)]
    assert not list(Path(".dbrun/runs").glob("*")) and not list(Path(".dbrun/traces").glob("*/*"))
    run("stage", "load", "dog.yaml", "--locked")
    assert len(list(Path(".dbrun/traces/load").iterdir())) == 1
    golden("a sweep", run("run", "dog.yaml", "--locked", "--sweep", "seed=1,2", check=2).stderr)


def test_formats_are_told_where_they_are_written(folder: Path, golden: Golden) -> None:
    golden("plan", run("plan", "dog.yaml").stdout.splitlines()[-4])
    assert "export" not in run("plan", "dog.yaml", "--until", "load").stdout


def test_a_plan_that_is_blocked_says_that_a_run_would_stop_and_what_to_do(folder: Path, golden: Golden) -> None:
    words = ["dog.yaml", "subject.instance_prompt=a photo of sks dog", "--only", "train"]
    done = run("plan", *words)
    stop = run("run", *words, check=3).stderr
    golden("plan --only train", done.stderr)
    golden("run --only train", stop)
    assert done.stderr.splitlines()[-2:] == [
        line.replace("error: ", "a run would stop: ") for line in stop.splitlines()[-2:]]
    golden("device=mps", run("plan", "dog.yaml", "device=mps").stderr)
    assert "would stop" not in run("plan", "dog.yaml").stderr


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_the_only_recipe_is_taken_and_of_several_one_is_asked_for(folder: Path, golden: Golden, verb: str) -> None:
    (folder / "compose.yaml").write_text("services: {}\n")
    # A profile that is not there ends the command before any work, once the recipe is chosen.
    for words in ((), ("seed=3",)):
        assert run(verb, *words, "--profile", "x", check=2).stderr.startswith("dog.yaml: the only recipe here\n")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "cat.yaml").write_text(starter_recipe(StarterRequest("cat")))
    golden("one in recipes/ too", run(verb, check=2).stderr)
    (folder / "dog.yaml").unlink()
    (folder / "recipes" / "cat.yaml").unlink()
    golden("none", run(verb, check=2).stderr)


def test_wrong_recipes_are_told_as_data(folder: Path) -> None:
    (folder / "bad.yaml").write_text(starter_recipe(StarterRequest("bad")).replace("seed: 0", "sead: 0"))
    found = json.loads(run("validate", "dog.yaml", "bad.yaml", "--json", check=2).stdout)
    assert [file["valid"] for file in found["files"]] == [True, False]
    problem = found["files"][1]["problems"][0]
    assert (problem["key"], problem["column"]) == ("sead", 1) and problem["line"] > 1


@pytest.mark.parametrize(("words", "key"), [
    (["plan", "bad.yaml"], "sead"), (["run", "bad.yaml", "--dry-run"], "sead"), (["status", "bad.yaml"], "sead"),
    (["plan", "gone.yaml"], None), (["plan", "dog.yaml", "--locked"], None), (["logs", "none"], None),
    (["plan", "--forse"], None)], ids=str)
def test_what_fails_is_told_as_data_too(folder: Path, words: list[str], key: str | None) -> None:
    (folder / "bad.yaml").write_text(starter_recipe(StarterRequest("bad")).replace("seed: 0", "sead: 0"))
    done = run(*words, "--json", check=2)
    found = json.loads(done.stdout)
    assert found["format_version"] == 1 and found["error"]["exit_code"] == 2
    assert done.stderr.startswith(f"error: {found['error']['message'].splitlines()[0]}")
    assert [problem["key"] for problem in found["error"].get("problems", [{"key": None}])] == [key]
    assert run(*words, check=2).stdout == ""


def test_a_run_tells_of_a_failure_once_among_its_events(folder: Path) -> None:
    lines = run("run", "gone.yaml", "--json", check=2).stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["run_failed"]


def test_pictures_are_shown_without_stages_and_which_word_is_too_much_is_told(folder: Path, golden: Golden) -> None:
    golden("plan --pictures", run("plan", "dog.yaml", "--pictures", "--until", "load", "--locked", check=2).stderr)


def test_a_version_that_nobody_knows_is_refused(folder: Path, golden: Golden) -> None:
    (folder / "old.yaml").write_text("name: old\n")
    golden("migrate old.yaml", run("migrate", "old.yaml").stdout)
    (folder / "new.yaml").write_text("schema: dbrun/v9\n")
    (folder / "none.yaml").write_text("schema: dbrun/v0\n")
    files = ["gone.yaml", "new.yaml", "none.yaml", "dog.yaml"]
    done = run("migrate", *files, check=2)
    assert run("migrate", "dog.yaml").stdout == done.stdout
    golden("good files", done.stdout)
    golden("wrong files", done.stderr)
    told = json.loads(run("migrate", *files, "--json", check=2).stdout)["files"]
    assert [(one["file"], one["schema"], one["current"], one["error"] is None) for one in told] == [
        ("gone.yaml", None, False, False), ("new.yaml", "dbrun/v9", False, False),
        ("none.yaml", "dbrun/v0", False, False), ("dog.yaml", "dbrun/v1", True, True)]


def test_the_next_word_is_completed(folder: Path) -> None:
    (folder / "recipes").mkdir()
    (folder / "recipes" / "cat.yaml").touch()
    assert complete.complete_recipes("") == ["dog.yaml", "recipes/cat.yaml", "recipes/"]
    assert complete.complete_recipes("recipes/") == ["recipes/cat.yaml"]
    assert complete.complete_keys("train.le") == ["train.learning_rate=", "train.learning_rate=0.0001"]
    assert complete.complete_stages("p") == ["preprocess"]
    line = {"_DBRUN_COMPLETE": "complete_bash", "COMP_WORDS": "dbrun ", "COMP_CWORD": "1"}
    offered = run(**line).stdout.split()
    assert {verb for verbs in VERB_MODULES.values() for verb in verbs} <= set(offered)


@pytest.mark.parametrize(("line", "at", "offered"), [
    ("run dog.yaml --profile ", 4, ["ci", "gpu"]), ("status dog.yaml --profile g", 4, ["gpu"]),
    ("run gone.yaml --profile ", 4, []), ("run dog.yaml train.precision=b", 3, ["train.precision=bf16"]),
    ("run dog.yaml train.precision = b", 5, ["bf16"]),
    ("run dog.yaml train.precision =", 4, ["auto", "fp32", "bf16", "fp16"]),
    ("plan dog.yaml --sweep train.le", 4, ["train.learning_rate=", "train.learning_rate=0.0001"]),
    ("plan dog.yaml --sweep train.precision=fp32,b", 4, ["train.precision=fp32,bf16"]),
    ("run dog.yaml adapt.denoiser.type=o", 3, ["adapt.denoiser.type=oft"]), ("run dog.yaml no.such=", 3, []),
    ("logs ", 2, ["cat", "dog", NEW, OLD]), ("diff d", 2, ["dog"]), (f"diff dog {OLD[:4]}", 3, [NEW, OLD]),
    ("runs ", 2, ["cat", "dog"]), ("pin d", 2, ["dog"]),
    ("validate d", 2, ["dog.yaml", "device=", "device=auto", "device=cuda", "device=mps", "device=cpu"]),
    ("run dog.yaml train.st", 3, ["train.steps=", "train.steps=null"])])
def test_bash_is_offered_what_fits(folder: Path, line: str, at: int, offered: list[str]) -> None:
    text = starter_recipe(StarterRequest("dog"))
    (folder / "dog.yaml").write_text(text + "profiles: {ci: {seed: 1}, gpu: {seed: 2}}\n")
    for run_id in (OLD, NEW):
        (folder / ".dbrun" / "runs" / run_id).mkdir(parents=True)
    done = run(_DBRUN_COMPLETE="complete_bash", COMP_WORDS=f"dbrun {line}", COMP_CWORD=str(at))
    assert done.stdout.split() == offered and done.stderr == ""


def test_the_machine_is_looked_at_without_telling_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = run_checks(Store(tmp_path / "store"))
    assert "hf_secret" not in str(found)
    assert {"Hub login": "ok", "torch": "ok"}.items() <= {check.name: check.state for check in found}.items()
    monkeypatch.setattr(doctor, "installed_version", lambda name: "0.1" if name == "torch" else "absent")
    wrong = {check.name: check for check in run_checks(Store(tmp_path / "store")) if check.state == "bad"}
    assert wrong["torch"].fix and wrong["torch"].fix.startswith("pip install 'torch")
    assert wrong["peft"].found == "absent"


def test_validate_finds_what_plan_would_refuse(folder: Path, golden: Golden) -> None:
    """The base and the pictures are looked at, unless a machine has neither."""
    wrong = ["images.resolution=63", "adapt.denoiser.rank=4000", "subject.images=gone"]
    planned = run("plan", "dog.yaml", *wrong, check=2).stderr
    assert run("validate", "dog.yaml", *wrong, check=2).stderr == planned
    golden("plan", planned)
    golden("validate --alone", run("validate", "--alone", "dog.yaml", *wrong).stdout)
    done = run("validate", "dog.yaml", "train.learning_rate=7")
    golden("a warning", done.stdout + done.stderr)
    golden("no recipe", run("validate", "train.steps=3", check=2).stderr)
    file, = json.loads(run("validate", "dog.yaml", "train.learning_rate=7", "--json").stdout)["files"]
    assert file["valid"] and file["unseen"] == [] and len(file["warnings"]) == 1


def test_validate_says_what_it_could_not_look_at(folder: Path, golden: Golden) -> None:
    """What a run would fetch is not wrong."""
    words = ["base.path=owner/name", "subject.images=owner/set", "subject.revision=main"]
    env = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "0"}
    golden("base", run("validate", "dog.yaml", words[0], **env).stdout)
    golden("pictures", run("validate", "dog.yaml", *words[1:], **env).stdout)


def test_a_sweep_with_a_run_that_cannot_run_starts_none(folder: Path, golden: Golden) -> None:
    sweep = ["--sweep", "train.precision=fp32,fp16", "--sweep", "seed=1,2"]
    planned = run("plan", "dog.yaml", *sweep, CUDA_VISIBLE_DEVICES="")
    refused = run("run", "dog.yaml", *sweep, check=1, CUDA_VISIBLE_DEVICES="")
    *rows, last = planned.stdout.splitlines()
    found = [tuple(row.split()[:2]) for row in rows]
    assert Counter(status for name, status in found if name in STAGES) == {"RUN": 11, "BLOCKED": 8}
    to_run, blocked = ([status for _, status in found].count(word) for word in ("RUN", "BLOCKED"))
    assert re.fullmatch(rf"4 runs: {to_run} stages to run instead of \d+; {blocked} stages blocked", last)
    golden("run", refused.stderr)
    assert planned.stderr.endswith(refused.stderr.replace("error: ", "a run would stop: "))
    event, = run("run", "dog.yaml", *sweep, "--json", check=1, CUDA_VISIBLE_DEVICES="").stdout.splitlines()
    assert refused.stdout == "" and refused.stderr.startswith(f"error: {json.loads(event)['message']}\n")
    planned = run("plan", "dog.yaml", "--sweep", "seed=1,2", "train.precision=fp16", "--json", CUDA_VISIBLE_DEVICES="")
    assert "would stop" not in planned.stderr


def test_of_several_recipes_it_is_said_which_is_wrong(folder: Path) -> None:
    (folder / "cat.yaml").write_text(starter_recipe(StarterRequest("cat")))
    said = run("validate", "dog.yaml", "cat.yaml", "trian=3", check=2).stderr
    assert re.findall("^.*: not valid$", said, re.MULTILINE) == ["dog.yaml: not valid", "cat.yaml: not valid"]
    assert run("validate", "dog.yaml", "trian=3", check=2).stderr.startswith("error: command line: trian: ")


@pytest.mark.parametrize("verb", ["explain", "stage"])
def test_a_recipe_in_the_place_of_a_stage_is_no_stage(folder: Path, golden: Golden, verb: str) -> None:
    golden("stderr", run(verb, "dog.yaml", check=2).stderr.replace(", ".join(sorted(stages())), "STAGES"))


def test_a_file_that_is_no_adapter_need_not_be_fetched_again(folder: Path, golden: Golden) -> None:
    (folder / "x.png").write_bytes(b"no adapter")
    golden("show x.png", run("show", "x.png", check=2).stderr)


def test_the_status_of_a_running_run_says_the_time_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dbrun.cli.ask import show_status

    place = Store(folder / ".dbrun").runs / "20260101-120000.000001-dog"
    place.mkdir(parents=True)
    (place / LIVE_FILE).write_text(temp_name())
    now = time.time()

    def said(*events: tuple[float, Event]) -> tuple[str, dict[str, Any]]:
        """What people and programs are told. events: seconds ago, and the event."""
        lines = [json.dumps({**event.to_json(), "time": now - ago}) for ago, event in events]
        (place / EVENTS_FILE).write_text("".join(f"{line}\n" for line in lines))
        show_status(["dog.yaml"], None, as_json=False)
        text = capsys.readouterr().out.splitlines()[-1]
        show_status(["dog.yaml"], None, as_json=True)
        return text, json.loads(capsys.readouterr().out)["last_run"]

    began, step = StageStarted("train", "nothing stored yet"), Progress("train", 120, 400, "steps")
    text, last = said((99, began), (80, TimeLeft("train", 300.0, 200.0)), (0, step))
    assert text.endswith("train 120/400 steps, whole run: about 4 min left")
    assert last["at"] == "train 120/400 steps" and 210 < last["seconds_left"] < 220.1
    text, last = said((99, TimeLeft("train", 300.0, 200.0)), (2, StageStarted("export", "nothing stored yet")))
    assert text.endswith("running, export") and last["seconds_left"] is None
    text, last = said((9, began), (5, TimeLeft("train", 60.0, 10.0, ("export",), "export")))
    assert "at least 55 s left" in text and last["seconds_left"] is None
