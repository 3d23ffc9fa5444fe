"""Does every family go the whole way, and does a fresh pipeline draw the same from every format that it claims?

A family that comes later is taken up by itself; one of flow matching says how its pipeline is called in
`flow_pipelines.py`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flow_pipelines import FLOW_PIPELINES
from projects import RECIPE, Project, lay_out

from dbrun.formats.base import formats
from dbrun.formats.base_kind import adapter_base_kind, base_kind
from dbrun.models.base import Family, families
from dbrun.recipe.checks.exports import unsupported_reason
from dbrun.recipe.load import load_recipe
from dbrun.store.store import Store

pytestmark = pytest.mark.slow
FAMILIES = {name: family for name, family in families().items() if family.start_image_reason is None}
"""Families that draw from a prompt alone; the other has a test of its own."""
SIDE = 32
LARGEST_DIFFERENCE, SMALLEST_EFFECT = 1e-5, 1e-2


def recipe_of(family: Family) -> dict[str, Any]:
    """A recipe with a LoRA on all layers of every component, without `export`."""
    recipe = yaml.safe_load(RECIPE)
    recipe["base"]["type"] = family.NAME
    recipe["prior"]["count"] = 2
    # two micro-batches a step, so that two processes have one each
    recipe["train"] |= {"steps": 4, "batch_size": 1, "accumulation": 2}
    recipe["samples"]["prompts"] = ["a photo of sks dog"]
    del recipe["export"]
    recipe["adapt"] = {}
    for component in family.components:
        widest = list(family.target_presets[component])[-1]
        recipe["adapt"][component] = {"type": "lora", "rank": 2, "alpha": 4, "targets": widest}
    return recipe


def laid_out(family: Family, folder: Path) -> tuple[Project, list[str]]:
    """A project on a tiny base of the family, and the formats of its recipe: all that can carry what learns."""
    project, file = lay_out(folder), folder / "tiny.yaml"
    shutil.rmtree(folder / "base")
    family.write_tiny_base(folder / "base")
    recipe = recipe_of(family)
    file.write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(file).recipe
    names = [name for name, form in formats().items() if unsupported_reason(loaded, name) is None
             and form.unsupported_base_reason(family, folder / "base") is None]
    file.write_text(yaml.safe_dump({**recipe, "export": names}))
    return project, names


def open_pipeline(folder: Path, **parts: Any) -> Any:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder, local_files_only=True, **parts)


def load_lora(name: str, home: Path, base: Path, family: Family) -> Any:
    """The base with a file of `load_lora_weights`."""
    files = formats()[name].find_files(home)
    assert files is not None
    pipeline = open_pipeline(base)
    pipeline.load_lora_weights(home, weight_name=files[-1].name)
    return pipeline


def load_peft(name: str, home: Path, base: Path, family: Family) -> Any:
    """The base with PEFT's folders, each on its component."""
    from peft import PeftModel

    pipeline = open_pipeline(base)
    for component, attribute in family.components.items():
        # it changes the layers in place
        PeftModel.from_pretrained(getattr(pipeline, attribute), home / "peft" / component)
    return pipeline


def load_components(name: str, home: Path, base: Path, family: Family) -> Any:
    """The base with whole components in the place of its own."""
    parts: dict[str, Any] = {}
    for attribute in family.components.values():
        own = type(getattr(open_pipeline(base), attribute))
        parts[attribute] = own.from_pretrained(home / "component" / attribute)
    return open_pipeline(base, **parts)


def load_merged(name: str, home: Path, base: Path, family: Family) -> Any:
    return open_pipeline(home / "merged")


def load_checkpoint(name: str, home: Path, base: Path, family: Family) -> Any:
    pipeline_class = type(open_pipeline(base))
    return pipeline_class.from_single_file(str(home / "single_file.safetensors"), config=str(base),
                                           local_files_only=True, safety_checker=None)


READERS: dict[str, Callable[[str, Path, Path, Family], Any]] = {
    "diffusers": load_lora, "kohya": load_lora, "peft": load_peft, "component": load_components,
    "merged": load_merged, "single_file": load_checkpoint}


def drawn(pipeline: Any, name: str, home: Path) -> torch.Tensor:
    """Pixels in [0, 1], with the scheduler that the export brings where the base's own no longer fits."""
    pipeline.set_progress_bar_config(disable=True)
    if (home / "scheduler").is_dir():
        pipeline.scheduler = type(pipeline.scheduler).from_pretrained(home / "scheduler")
    more = FLOW_PIPELINES[name].call if name in FLOW_PIPELINES else {}
    settings = {**more, "guidance_scale": 2.0, "width": SIDE, "height": SIDE, "output_type": "np"}
    return torch.from_numpy(pipeline(prompt="a photo of sks dog", num_inference_steps=2,
                                     generator=torch.Generator().manual_seed(0), **settings).images[0])


def digest_of(project: Project, stage: str) -> str:
    """Of the newest result of a stage."""
    return next(Store(project.folder / ".dbrun").traces.recent(stage, 9)).digest


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_it_learns_from_a_recipe_and_every_format_draws_the_same(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    project, names = laid_out(family, tmp_path / "one")
    # cut off after two steps, and taken up again
    project.dbrun("run", "tiny.yaml", "train.steps=2", "--until", "train")
    project.dbrun("run", "tiny.yaml")

    home, base = project.folder / "outputs" / "tiny", project.folder / "base"
    assert base_kind(base) in (None, adapter_base_kind([home / "pytorch_lora_weights.safetensors"]))
    assert {"diffusers", "peft", "merged"} <= set(names)
    # diffusers splits joined layers at the published widths alone: see formats/test_joined_layers.py
    readable = [form for form in names if form != "kohya" or not family.joins_layers("denoiser")]
    pictures = {form: drawn(READERS[form](form, home, base, family), name, home) for form in readable}
    untouched, expected = drawn(open_pipeline(base), name, home), pictures["merged"]
    assert (expected - untouched).abs().max() >= SMALLEST_EFFECT
    for form, picture in pictures.items():
        assert (picture - expected).abs().max() <= LARGEST_DIFFERENCE, form

    shared, _ = laid_out(family, tmp_path / "two")
    shared.dbrun("run", "tiny.yaml", "launch.processes=2", "--until", "train")
    assert digest_of(shared, "train") == digest_of(project, "train")
