"""The whole path of scores as a user takes it: candidates, the choice, the red run, and the same file scored alone."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from projects import Project
from tiny_encoders import write_tiny_clip

SCORED = """
train: {candidates: {every: 2}}
select: {by: [prompt, subject], prompts: [a photo of sks dog at night], seeds: 1}
evaluate:
  clip: {path: clip}
  prompts: [a photo of sks dog on the moon]
  seeds: 2
  expect: {subject: ">= 0.99999", diversity: ">= 0.0 of base"}
"""


@pytest.mark.slow
def test_a_recipe_that_expects_too_much_turns_red(project: Project) -> None:
    write_tiny_clip(project.folder / "clip", side=32)
    (project.folder / "scored.yaml").write_text(f"extends: tiny.yaml\nname: scored\n{SCORED}")
    done = project.dbrun("run", "scored.yaml", "--junit", "scores.xml", check=4)
    assert "below what is expected" in done.stderr and "subject is" in done.stderr
    outputs = project.folder / "outputs" / "scored"
    assert (outputs / "pytorch_lora_weights.safetensors").is_file()
    assert "## Scores" in (outputs / "README.md").read_text() and "not LPIPS" in (outputs / "README.md").read_text()
    root = ElementTree.parse(project.folder / "scores.xml").getroot()
    assert [case.get("name") for case in root.iter("testcase") if case.find("failure") is not None] == [
        "subject >= 0.99999"]

    # nothing to do, and still red; the folder is not written again
    again = project.dbrun("run", "scored.yaml", check=4)
    assert "nothing to do" in again.stderr and "written again" not in again.stderr
    (listed,) = json.loads(project.dbrun("runs", "--json", "scored", "-n", "1").stdout)["runs"]
    found = listed["last_event"]["scores"]["subject"]

    # the exported file, read by its own library, scores as the adapter did in the store
    own = project.dbrun("evaluate", "outputs/scored", "--like", "scored.yaml", "--json", check=4)
    (adapter,) = json.loads(own.stdout)["adapters"]
    assert adapter["scores"]["subject"]["mean"] == pytest.approx(found["mean"], abs=1e-3)
    told = project.dbrun("evaluate", "outputs/scored", "--like", "tiny.yaml", check=2).stderr
    assert "tiny.yaml has no `evaluate`" in told


def test_an_encoder_that_is_not_there_is_told_before_anything_runs(fresh: Project) -> None:
    words = ["tiny.yaml", "evaluate={clip: {path: clip}}"]
    for verb in ("plan", "run"):
        told = fresh.dbrun(verb, *words, check=2).stderr
        assert "evaluate.clip.path" in told and "'clip', which is no folder here" in told
    (fresh.folder / "clip").mkdir()
    (fresh.folder / "clip" / "config.json").write_text('{"model_type": "dinov2"}')
    assert "expected 'clip' (CLIP)" in fresh.dbrun("plan", *words, check=2).stderr
    hub = f"evaluate={{clip: {{path: a/b, revision: {'0' * 40}}}}}"
    assert "is not in" in fresh.dbrun("plan", "tiny.yaml", hub, check=2).stderr
