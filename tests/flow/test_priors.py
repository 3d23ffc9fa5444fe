"""Does each form of prior preservation run from the recipe to the export, and rerun only what it must?"""

import json

import pytest
from projects import STAGES, Project, picture

NOT_MADE = ("prior.count=null", "prior.steps=null", "prior.guidance=null")
FOLDER = (*NOT_MADE, "prior.images=others")
BASE = (*NOT_MADE, "prior.target=base")


def started(project: Project, *words: str) -> list[str]:
    """The stages that a run of the tiny recipe runs."""
    lines = project.dbrun("run", "tiny.yaml", "--json", *words).stdout.splitlines()
    return [e["stage"] for e in map(json.loads, lines) if e["event"] == "stage_started" and e["stage"] in STAGES]


def reasons(project: Project, *words: str) -> dict[str, str]:
    """Why stages would run, by name."""
    answer = json.loads(project.dbrun("plan", "tiny.yaml", "--json", *words).stdout)
    return {s["name"]: s["reason"] for s in answer["stages"] if s["status"] != "hit" and s["name"] in STAGES}


def encoded(project: Project) -> int:
    return len(list((project.folder / ".dbrun" / "traces" / "preprocess.item").rglob("*.json")))


def test_class_pictures_of_ones_own_go_through_and_one_of_them_is_encoded_anew(project: Project) -> None:
    again = ["preprocess", "train", "export"]
    assert started(project, *FOLDER) == again
    own = project.exported()
    before = encoded(project)
    picture(project.folder / "others" / "1.png", 190)
    changed = reasons(project, *FOLDER)
    assert list(changed) == again and changed["preprocess"] == "1 class picture changed"
    assert started(project, *FOLDER) == again and encoded(project) == before + 1
    assert project.exported() != own
    (project.folder / "others" / "0.txt").write_text("a dog in the snow")
    assert reasons(project, *FOLDER)["preprocess"] == "prompt of 1 class picture changed"
    text = (project.folder / "outputs" / "tiny" / "dbrun.json").read_text()
    assert "others" in text and str(project.folder) not in text


def test_the_base_as_target_makes_no_class_pictures(project: Project) -> None:
    made = project.exported()
    assert started(project, *BASE) == ["preprocess", "train", "export"]
    assert project.exported() != made
    facts = json.loads(project.dbrun("show", "outputs/tiny/pytorch_lora_weights.safetensors", "--json").stdout)
    assert facts["recipe"]["prior"] == {"weight": 1.0, "target": "base"} and "generate-priors" not in facts["inputs"]


@pytest.mark.parametrize(("words", "answer"), [
    (["prior=null"], "`prior=null subject.class_prompt=null`"),
    (["prior.target=base"], "prior.count=null"),
    (["prior.images=others"], "prior.steps=null"),
    ([*FOLDER, "prior.images=nowhere"], "`prior.images`"),
    ([*FOLDER, "prior.images=pictures"], "also a picture of the subject"),
])
def test_what_cannot_work_is_refused_by_plan_with_the_way_out(finished: Project, words, answer) -> None:
    said = finished.dbrun("plan", "tiny.yaml", *words, check=2).stderr
    assert answer in said and "Traceback" not in said


def test_the_plain_objective_is_a_step_away(finished: Project) -> None:
    assert set(reasons(finished, "prior=null", "subject.class_prompt=null")) == {"preprocess", "train", "export"}
