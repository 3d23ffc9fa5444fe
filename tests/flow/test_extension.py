"""Where a longer training cannot go on from a shorter one, does the plan say why?"""

import json

import pytest
from projects import Project


def reason(project: Project, *words: str) -> str:
    stages = json.loads(project.dbrun("plan", "tiny.yaml", "--json", *words).stdout)["stages"]
    return next(stage["reason"] for stage in stages if stage["name"] == "train")


@pytest.mark.slow
def test_a_schedule_that_knows_its_end_begins_anew_and_the_plan_says_why(project: Project, fresh: Project) -> None:
    cosine = "train.schedule={type: cosine}"
    project.dbrun("run", "tiny.yaml", cosine)
    said = reason(project, cosine, "train.steps=8")
    assert said == ("train.steps 6 → 8; starts again: "
                    "the learning rates of `cosine` depend on how many steps there are")
    project.dbrun("run", "tiny.yaml", cosine, "train.steps=8")
    fresh.dbrun("run", "tiny.yaml", cosine, "train.steps=8")
    assert project.exported() == fresh.exported()


def test_a_constant_rate_goes_on(project: Project) -> None:
    assert reason(project, "train.steps=8") == "from step 6 (train.steps 6 → 8)"
