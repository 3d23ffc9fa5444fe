"""Do both stages of DeepFloyd IF go the whole way, and do their exports change the pipelines that load them?"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from projects import RECIPE, Project, lay_out

PRIOR = "prior: {count: 3, weight: 1.0, steps: 2, guidance: 2.0}\n"
STAGE_TWO = RECIPE.replace(PRIOR, "").replace("  class_prompt: a photo of a dog\n", "").replace(
    ", prompts: [a photo of sks dog, a photo of a dog]", "")


def laid_out(folder: Path, family: str, recipe: str) -> Project:
    from dbrun.models.base import families

    project = lay_out(folder)
    shutil.rmtree(folder / "base")
    families()[family].write_tiny_base(folder / "base")
    (folder / "tiny.yaml").write_text(recipe.replace("type: sd", f"type: {family}"))
    return project


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = laid_out(tmp_path_factory.mktemp("one"), "if_stage1", RECIPE)
    project.dbrun("run", "tiny.yaml")
    return project


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = laid_out(tmp_path_factory.mktemp("two"), "if_stage2", STAGE_TWO)
    project.dbrun("run", "tiny.yaml")
    return project


def changed_by_the_export(project: Project, kind: Any, **images: Any) -> bool:
    """Whether diffusers' own pipeline draws another picture once it has loaded the export."""
    import torch

    pipeline = kind.from_pretrained(project.folder / "base", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    def picture() -> bytes:
        return pipeline("a photo of sks dog", num_inference_steps=2, clean_caption=False, **images,
                        generator=torch.Generator().manual_seed(0)).images[0].tobytes()

    before = picture()
    pipeline.load_lora_weights(project.folder / "outputs" / "tiny")
    return picture() != before


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["{target: base}",
                                   pytest.param("{images: ../pictures}", marks=pytest.mark.slow)])
def test_stage_two_preserves_its_class_without_making_pictures(two: Project, tmp_path: Path, prior: str) -> None:
    project = laid_out(tmp_path / "project", "if_stage2", RECIPE.replace(PRIOR, f"prior: {prior}\n"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, colour in enumerate(((10, 90, 200), (200, 90, 10))):
        image = Image.new("RGB", (48, 40), colour)
        image.paste((250, 250, 250), (6, 6, 20, 30))
        image.save(folder / f"{number}.png")
    project.dbrun("run", "tiny.yaml")
    stages = json.loads((project.folder / "outputs" / "tiny" / "dbrun.json").read_text())["stages"]
    assert "generate-priors" not in stages
    adapter = "pytorch_lora_weights.safetensors"
    assert project.exported()[adapter] != two.exported()[adapter]


def test_stage_one_with_prior_preservation(one: Project) -> None:
    from diffusers import IFPipeline

    lines = (one.folder / "outputs" / "tiny" / "dbrun.json").read_text()
    assert set(json.loads(lines)["stages"]) >= {"generate-priors", "preprocess", "train", "export"}
    assert changed_by_the_export(one, IFPipeline)


def test_the_variance_that_is_not_learned_on_is_fixed_in_the_exported_scheduler(one: Project, two: Project) -> None:
    for project in (one, two):
        homes = [project.folder / home / "scheduler" for home in ("base", "outputs/tiny")]
        kinds = [json.loads((home / "scheduler_config.json").read_text())["variance_type"] for home in homes]
        assert kinds == ["learned_range", "fixed_small"]


def test_stage_two_shows_what_it_begins_with(one: Project, two: Project) -> None:
    from diffusers import IFSuperResolutionPipeline

    sheets = [Image.open(project.folder / "outputs" / "tiny" / "before_after.png") for project in (one, two)]
    assert sheets[1].height > 1.3 * sheets[0].height, "a third row: the small pictures"
    assert changed_by_the_export(two, IFSuperResolutionPipeline, image=Image.new("RGB", (8, 8), "teal"))


@pytest.mark.parametrize(("change", "stages"), [
    ("train.class_labels=noise_level", set()), ("train.class_labels=timesteps", {"train", "export"})])
def test_class_labels_change_the_training_and_nothing_before(two: Project, change: str, stages: set[str]) -> None:
    plan = json.loads(two.dbrun("plan", "tiny.yaml", "--json", change).stdout)["stages"]
    assert {s["name"] for s in plan if s["status"] != "hit"} == stages


def test_class_labels_change_the_adapter(two: Project, tmp_path: Path) -> None:
    shutil.copytree(two.folder, tmp_path / "project", symlinks=True)
    other = Project(tmp_path / "project")
    other.dbrun("run", "tiny.yaml", "name=other", "train.class_labels=timesteps", "--until", "train")
    traces = (other.folder / ".dbrun" / "traces" / "train").iterdir()
    assert len({json.loads(path.read_text())["digest"] for path in traces}) == 2


def test_a_base_of_another_family_is_told_by_name(one: Project, two: Project, tmp_path: Path) -> None:
    for project, wrong, found, right in ((one, "sd", "IFPipeline", "if_stage1"),
                                         (two, "if_stage1", "IFSuperResolutionPipeline", "if_stage2")):
        text = STAGE_TWO.replace("type: sd, path: base", f"type: {wrong}, path: {project.folder / 'base'}")
        (tmp_path / "wrong.yaml").write_text(text.replace("images: pictures", f"images: {project.folder / 'pictures'}"))
        said = Project(tmp_path).dbrun("plan", "wrong.yaml", check=2).stderr
        assert f"the base is a {found};" in said and f"write `base.type: {right}`" in said
