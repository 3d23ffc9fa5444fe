"""Is damage found before it spreads, and is what cannot work refused before anything was spent on it?"""

import json
import os

import pytest
from projects import STAGES, Project


def flip(project: Project, stage: str) -> None:
    """Change a byte in every file of a stage's stored result, and put the sizes and times back."""
    for trace in (project.folder / ".dbrun" / "traces" / stage).glob("*.json"):
        digest = json.loads(trace.read_text())["digest"]
        for file in (project.folder / ".dbrun" / "objects" / digest[:2] / digest).rglob("*.*"):
            state, content = file.stat(), bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.chmod(0o644)
            file.write_bytes(content)
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def events(project: Project, *words: str, check: int = 0) -> list[dict[str, object]]:
    return [json.loads(line) for line in project.dbrun("run", "tiny.yaml", "--json", *words, check=check)
            .stdout.splitlines()]


def started(told: list[dict[str, object]]) -> list[object]:
    return [e["stage"] for e in told if e["event"] == "stage_started" and e["stage"] in STAGES]


@pytest.mark.parametrize(("stage", "change", "again"), [
    ("train", "samples.seed=7", ["train", "export"]),
    pytest.param("preprocess", "train.steps=8", ["preprocess", "train", "export"], marks=pytest.mark.slow),
    pytest.param("export", "name=other", ["export"], marks=pytest.mark.slow),
])
def test_a_flipped_byte_in_the_store_never_reaches_a_result(project: Project, fresh: Project, stage: str,
                                                           change: str, again: list[str]) -> None:
    name = "other" if change == "name=other" else "tiny"
    flip(project, stage)
    told = events(project, change)
    assert started(told) == again
    assert any(e["event"] == "note" and e["stage"] == stage and "damaged" in str(e["text"]) for e in told)
    fresh.dbrun("run", "tiny.yaml", change)
    assert project.exported(name) == fresh.exported(name)


def test_fp16_on_a_cpu_is_refused_before_a_picture_is_drawn(fresh: Project) -> None:
    said = fresh.dbrun("run", "tiny.yaml", "train.precision=fp16", "device=auto", check=1,
                       env={"CUDA_VISIBLE_DEVICES": ""}).stderr
    assert "fp16 needs a GPU" in said and "train.precision: fp32" in said
    assert not (fresh.folder / ".dbrun" / "traces").exists()


def test_a_folder_in_the_way_is_refused_before_anything_runs(fresh: Project) -> None:
    theirs = fresh.folder / "outputs" / "tiny"
    theirs.mkdir(parents=True)
    (theirs / "thesis.txt").write_text("precious")
    told = [event for event in events(fresh, check=1) if event["event"] != "note"]
    assert [e["event"] for e in told] == ["run_failed"] and told[0]["exit_code"] == 1
    assert not (fresh.folder / ".dbrun" / "traces").exists()


def test_a_copied_project_runs_its_own_recipe(project: Project) -> None:
    recipe = project.folder / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("name: tiny", "name: copy"))
    assert "tiny.yaml" in project.dbrun("stage", "adapt").stderr
    assert json.loads(max((project.folder / ".dbrun" / "runs").iterdir()).joinpath("recipe.json").read_text())[
        "name"] == "copy"


def test_the_way_out_of_only_holds_what_was_typed(fresh: Project) -> None:
    said = fresh.dbrun("stage", "train", "tiny.yaml", "adapt.denoiser.rank=3", "--only", check=3).stderr
    assert "dbrun stage load tiny.yaml adapt.denoiser.rank=3" in said


@pytest.mark.parametrize(("change", "stage", "reason"), [
    ("prior={count: null, steps: null, guidance: null, target: base}", "preprocess",
     "without generate-priors now, prior.target images → base"),
    ("subject.instance_prompt=a photo of xyz dog", "preprocess",
     "subject.instance_prompt 'a photo of sks dog' → 'a photo of xyz dog'"),
    ("samples.seed=7", "export", "samples.seed 0 → 7"),
])
def test_reasons_speak_the_words_of_the_recipe(finished: Project, change: str, stage: str, reason: str) -> None:
    stages = json.loads(finished.dbrun("plan", "tiny.yaml", change, "--json").stdout)["stages"]
    assert reason in next(s["reason"] for s in stages if s["name"] == stage)


def test_the_reason_of_an_export_says_each_thing_once(project: Project) -> None:
    told = events(project, "train.accumulation=2", "subject.instance_prompt=a photo of xyz dog", "--until", "export")
    reason = next(str(e["reason"]) for e in told if e["event"] == "stage_started" and e["stage"] == "export")
    assert "recipe." not in reason and "unset" not in reason and reason.count("instance_prompt") == 1
