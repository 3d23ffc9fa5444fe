"""Settings of a base that have another type: each is told with its file and key, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dbrun.embedded import weights_path
from dbrun.errors import RecipeError
from dbrun.models.base import families
from dbrun.models.prompt_length import load_tokenizer


def base_with(folder: Path, name: str, text: str) -> Path:
    """Copy of the embedded base's configs in which a file has another text."""
    shutil.copytree(weights_path(), folder / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "base" / name).write_text(text)
    return folder / "base"


@pytest.mark.parametrize("name", ["unet/config.json", "vae/config.json", "text_encoder/config.json",
                                  "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ["null", "[]", "{", "[" * 5000, '"x"', "\udcff"])
def test_a_config_that_is_no_object_is_told_by_its_name(name: str, text: str, tmp_path: Path) -> None:
    base = base_with(tmp_path, name, "")
    (base / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RecipeError, match=name):
        families()["sd"].check_configs(base)


@pytest.mark.parametrize(("name", "key", "value"), [
    ("unet/config.json", "block_out_channels", None), ("unet/config.json", "block_out_channels", []),
    ("unet/config.json", "sample_size", "64"), ("unet/config.json", "sample_size", [None]),
    ("vae/config.json", "scaling_factor", None), ("vae/config.json", "scaling_factor", float("nan")),
    ("vae/config.json", "block_out_channels", [0]), ("text_encoder/config.json", "max_position_embeddings", True),
    ("vae/config.json", "latents_mean", [0.1, "x"]), ("vae/config.json", "temperal_downsample", [1]),
    ("tokenizer/tokenizer_config.json", "model_max_length", {}),
    ("scheduler/scheduler_config.json", "num_train_timesteps", -1),
    ("scheduler/scheduler_config.json", "prediction_type", None),
    ("scheduler/scheduler_config.json", "trained_betas", ["a"])])
def test_a_setting_of_another_type_is_told_by_its_key(name: str, key: str, value: object, tmp_path: Path) -> None:
    settings = json.loads((weights_path() / name).read_text())
    base = base_with(tmp_path, name, json.dumps({**settings, key: value}))
    with pytest.raises(RecipeError, match=f"{name} of the base: found .* as `{key}`"):
        families()["sd"].check_configs(base)


def test_both_forms_of_a_sample_size_are_read(tmp_path: Path) -> None:
    settings = json.loads((weights_path() / "unet/config.json").read_text())
    plain = families()["sd"].native_resolution(weights_path())
    settings["sample_size"] = [settings["sample_size"]] * 2
    base = base_with(tmp_path, "unet/config.json", json.dumps(settings))
    families()["sd"].check_configs(base)
    assert families()["sd"].native_resolution(base) == plain


def test_a_broken_tokenizer_is_told_by_its_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"tokenizer\.json of the base cannot be read"):
        load_tokenizer(base_with(tmp_path, "tokenizer/tokenizer.json", '{"model": null}'))
