"""Does training over a checkpoint of one file give what training over the same base in a folder gives?"""

import shutil

import pytest
import torch
from projects import RECIPE, Project, lay_out
from safetensors.torch import load_file

OVER_FILE = RECIPE.replace("path: base", "path: my.safetensors, like: base").replace(
    "[diffusers, peft]", "[diffusers, single_file]").replace("steps: 6", "steps: 2").replace(
    "prior: {count: 3, weight: 1.0, steps: 2, guidance: 2.0}\n", "").replace("  class_prompt: a photo of a dog\n", "")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    from dbrun.formats.base import formats
    from dbrun.models.base import families

    project, family = lay_out(tmp_path_factory.mktemp("single")), families()["sd"]
    home = project.folder
    (file,) = formats()["single_file"].write(home, family, {}, lambda: family.load(
        home / "base", device=torch.device("cpu"), dtype=torch.float32))
    file.rename(home / "my.safetensors")
    (home / "tiny.yaml").write_text(OVER_FILE)
    (home / "folder.yaml").write_text(OVER_FILE.replace("path: my.safetensors, like: base", "path: base").replace(
        "name: tiny", "name: folder"))
    return project


@pytest.mark.slow
def test_training_over_the_file_is_training_over_the_folder_and_goes_on(project: Project) -> None:
    project.dbrun("run", "tiny.yaml")
    # another place is no other base, and a longer training goes on from the checkpoint
    (project.folder / "models").mkdir()
    shutil.move(project.folder / "my.safetensors", project.folder / "models" / "other.safetensors")
    longer = ("base.path=models/other.safetensors", "train.steps=3")
    assert "RESUME" in project.dbrun("plan", "tiny.yaml", *longer).stdout
    project.dbrun("run", "tiny.yaml", *longer)
    project.dbrun("run", "folder.yaml", "train.steps=3")
    for name in ("pytorch_lora_weights.safetensors", "single_file.safetensors"):
        ours, theirs = (load_file(project.folder / "outputs" / one / name) for one in ("tiny", "folder"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
