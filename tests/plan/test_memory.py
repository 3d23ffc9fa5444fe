"""Is the device that memory is counted for read right, and does the advice name what helps in that stage?"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from representatives import cases

from dbrun.errors import UsageError
from dbrun.plan.memory import RESERVED_BYTES, TargetDevice, parse_device, recipe_for
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import stages
from dbrun.stages.support.memory import CountedMemory, read_counted
from dbrun.stages.support.memory_advice import NOTHING_TO_CHANGE, advice_text, stage_advice

RECIPE = {"schema": "dbrun/v1", "name": "tiny", "base": {"type": "sd", "path": "base"},
          "subject": {"images": "pictures", "instance_prompt": "a photo of sks dog"},
          "adapt": {"denoiser": {"type": "lora", "rank": 8, "targets": "all"}},
          "train": {"batch_size": 2}, "export": ("peft", "merged")}

PRIOR = {"subject": {"images": "pictures", "instance_prompt": "a photo of sks dog", "class_prompt": "a photo of a dog"},
         "prior": {"count": 4}}


def test_a_device_is_a_name_with_a_size() -> None:
    assert parse_device("cuda:24GB") == parse_device("CUDA:24 GiB") == TargetDevice("cuda", 24 * 2**30)
    assert parse_device("cpu:512MB").size == 512 * 2**20
    for wrong in ("cdua:24GB", "24GB", "cuda:many", "cuda:24TB"):
        with pytest.raises(UsageError) as caught:
            parse_device(wrong)
        assert "cuda" in (caught.value.fix or "")


def test_a_stage_fits_where_the_libraries_have_room_beside_it() -> None:
    counted = CountedMemory(2**30, 2**29, 2**29)
    assert TargetDevice("cuda", counted.total + RESERVED_BYTES).has_room(counted) is True
    assert TargetDevice("cuda", counted.total + RESERVED_BYTES - 1).has_room(counted) is False
    assert TargetDevice("cuda").has_room(counted) is None


def test_auto_precision_is_16_bits_on_a_gpu_that_is_not_here() -> None:
    recipe = Recipe.model_validate({**RECIPE, "device": "cpu"})
    assert recipe_for(recipe, TargetDevice("cuda", 2**34)).train.precision == "bf16"
    assert recipe_for(recipe, TargetDevice("cpu", 2**34)).train.precision == "auto"


def test_the_advice_is_that_of_the_stage() -> None:
    recipe = Recipe.model_validate({**RECIPE, **PRIOR})
    advice = {name: advice_text(stage.memory_advice(recipe, "cuda")) for name, stage in stages().items()}
    assert "gradient_checkpointing" in advice["train"] and "`train.accumulation`" in advice["train"]
    assert advice["export"].startswith("leave `merged` out of `export`") and "trains anew" in advice["export"]
    assert "prior.images" in advice["generate-priors"] and "batch_size" not in advice["preprocess"]
    # what is done already is not advised again, nor 16 bits where the stage computes in 32 all the same
    done = Recipe.model_validate({**RECIPE, "train": {"gradient_checkpointing": True, "precision": "bf16"}})
    train = stages()["train"].memory_advice(done, "cpu")
    assert not any("checkpointing" in text or "bf16" in text or "batch_size" in text for text in train)
    assert "bf16" in advice["preprocess"] and "bf16" not in stage_advice(stages()["preprocess"], recipe, "cpu")


def test_quantised_weights_are_advised_where_the_adapter_can_learn_on_them() -> None:
    def advised(kind: str, device: str, stage: str, **options: object) -> str:
        adapter = {"type": kind, **options}
        recipe = Recipe.model_validate({**RECIPE, "adapt": {"denoiser": adapter}, "export": None})
        return advice_text(stages()[stage].memory_advice(recipe, device))

    assert "`base.quantise: nf4`" in advised("lora", "cuda", "train")
    for kind, device in (("full", "cuda"), ("lora", "cpu")):
        assert "quantise" not in advised(kind, device, "train")
    # only what reads the base's weights as it starts is told to start without
    assert "starts without the base's weights" in advised("lora", "cuda", "adapt", start="pissa", targets="linear")
    assert "starts without" not in advised("lora", "cuda", "adapt")


def test_encoders_that_learn_are_advised_to_be_left_out_beside_a_denoiser_only() -> None:
    lora = {"type": "lora"}
    both = Recipe.model_validate({**RECIPE, "adapt": {"denoiser": lora, "text_encoder": lora}})
    alone = Recipe.model_validate({**RECIPE, "adapt": {"text_encoder": lora}})
    train = stages()["train"]
    assert "leave out `adapt.text_encoder`" in train.memory_advice(both, "cuda")
    assert "leave out `adapt.text_encoder`" not in train.memory_advice(alone, "cuda")


def test_offload_is_advised_where_it_helps_and_is_not_set() -> None:
    def advised(device: str, **base: object) -> set[str]:
        recipe = Recipe.model_validate({**RECIPE, "base": {"type": "sd", "path": "base", **base}})
        return {name for name, stage in stages().items()
                if "set `base.offload: blocks`" in stage.memory_advice(recipe, device)}

    assert advised("cuda") == {"train", "generate-priors", "select", "export", "evaluate"}
    assert not advised("cpu") and not advised("cuda", offload="blocks") and not advised("cuda", quantise="nf4")


def test_counts_of_another_version_are_not_known() -> None:
    counted = CountedMemory(1, 2, 3)
    assert read_counted(counted.to_json()) == counted
    assert read_counted({"weights": 1}) is None and read_counted(None) is None


VARIED: list[dict[str, Any]] = [
    {},
    {"adapt": {"denoiser": {"type": "full"}, "text_encoder": {"type": "lora"}}, "export": ["merged", "single_file"]},
    {"adapt": {"denoiser": {"type": "lora", "start": "pissa", "targets": "linear"}}, "launch": {"processes": 4},
     "train": {"accumulation": 4}},
    {"adapt": {"denoiser": {"type": "loha"}, "trigger": {"token": "<sks>", "initializer": "dog"}}, "export": None,
     "subject": {"images": "pictures", "instance_prompt": "a photo of <sks> dog", "class_prompt": "a dog"},
     "prior": {"images": "others"}, "images": {"resolution": 64}},
    {"base": {"type": "sd", "path": "base", "quantise": "int8"}, "objective": {"prediction": "v_prediction"},
     "train": {"precision": "bf16"}},
]
"""Parts of recipes whose advice differs."""


def named_overrides(advice: str, recipe: Recipe) -> list[str]:
    """The override words of the change that an advice names."""
    words = [f"{key}={value}" for key, value in re.findall(r"`([a-z_.]+): ([^`]+)`", advice)]
    words += [f"{key}={_value(recipe, key) // 2}" for key in re.findall(r"lower `([a-z_.]+)`", advice)]
    words += [f"{key}={_value(recipe, key) * 2}" for key in re.findall(r"raise `([a-z_.]+)`", advice)]
    for names in re.findall(r"leave out (.+)", advice):
        words += [f"{name}=null" for name in re.findall("`(.*?)`", names)]
    for names in re.findall(r"leave ([^,]+) out of `export`", advice):
        left = [name for name in recipe.export or () if f"`{name}`" not in names]
        words.append(f"export=[{', '.join(left)}]")
    words += [f"{key}={{type: lora}}" for key in re.findall(r"choose a low-rank `([a-z_.]+).type`", advice)]
    words += [f"{key}=others" for key in re.findall(r"of your own in `([a-z_.]+)`", advice)]
    return words


def _value(recipe: Recipe, key: str) -> int:
    value: Any = recipe
    for name in key.split("."):
        value = getattr(value, name)
    return int(value)


@pytest.mark.parametrize("place", cases(range(len(VARIED)), 1))
@pytest.mark.parametrize("device", cases(("cuda", "cpu"), 0))
def test_every_change_that_is_advised_is_a_valid_override(tmp_path: Path, place: int, device: str) -> None:
    """Of every stage; what it sets or leaves out is not advised again, and what cannot be changed is not named."""
    path = tmp_path / "tiny.yaml"
    document = {**RECIPE, **PRIOR, "export": ["peft", "merged"], "device": device, **VARIED[place]}
    path.write_text(yaml.safe_dump(document))
    recipe = load_recipe(path, ()).recipe
    found = 0
    for name, stage in stages().items():
        for advice in stage.memory_advice(recipe, device):
            words = named_overrides(advice, recipe)
            assert words or "those in `" in advice, (name, advice)
            again = stage_advice(stage, load_recipe(path, words).recipe, device)
            assert not words or advice.startswith("lower") or advice not in again, (name, advice, words)
            found += 1
    assert found > 5
    assert stage_advice(stages()["load"], recipe, device) == NOTHING_TO_CHANGE
