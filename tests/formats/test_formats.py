"""Does every format carry every adapter exactly, and is a faulty file noticed?"""

import json
from typing import get_args

import pytest
import torch
from representatives import cases
from safetensors.torch import load_file, save_file

from dbrun.errors import RecipeError, StageFailed
from dbrun.formats.base import formats
from dbrun.formats.stamp import write_provenance
from dbrun.recipe.schema.model import Export
from dbrun.safetensors_header import read_header, read_provenance


def reloaded(trained, form, folder) -> float:
    model = trained.fresh()
    form.read(folder, model, tuple(trained.adapters))
    return trained.expected.compare(trained.probe.predict(model), model, form)


def test_the_recipe_knows_every_format() -> None:
    assert set(formats()) == set(get_args(Export))


@pytest.mark.all_types
def test_what_is_read_back_predicts_what_was_trained(trained, form, tmp_path) -> None:
    form.write(tmp_path, trained.family, trained.adapters, trained.fresh)
    assert reloaded(trained, form, tmp_path) < 1e-4 * trained.expected.effect


def test_one_component_alone_is_carried_too(trained, form, tmp_path) -> None:
    from dbrun.formats.roundtrip import ReferencePredictions

    for component, attached in trained.adapters.items():
        (tmp_path / component).mkdir()
        form.write(tmp_path / component, trained.family, {component: attached}, trained.fresh)
        own, model = trained.fresh(), trained.fresh()
        base = trained.probe.predict(own)
        attached.attach_to(own.module(component))
        expected = ReferencePredictions(base, trained.probe.predict(own), {component: attached})
        form.read(tmp_path / component, model, (component,))
        expected.compare(trained.probe.predict(model), model, form)


def test_provenance_survives_and_disturbs_no_reader(trained, form, tmp_path) -> None:
    paths = form.write(tmp_path, trained.family, trained.adapters, trained.fresh)
    for path in paths:
        before = load_file(path)
        write_provenance(path, {"format_version": 1, "prompt": "ein Foto, größer als 中"})
        assert read_provenance(path) == {"format_version": 1, "prompt": "ein Foto, größer als 中"}
        assert read_header(path).metadata["format"] == "pt"
        after = load_file(path)
        assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        first = path.read_bytes()
        write_provenance(path, {"prompt": "ein Foto, größer als 中", "format_version": 1})
        assert path.read_bytes() == first
    assert paths and reloaded(trained, form, tmp_path) < 1e-4 * trained.expected.effect


@pytest.mark.parametrize("fault", cases(["lost", "doubled", "renamed"], 0))
def test_a_faulty_file_is_noticed(trained, form, fault, tmp_path) -> None:
    paths = form.write(tmp_path, trained.family, trained.adapters, trained.fresh)
    # of whole components the denoiser: nothing depends on a text encoder's last layer where the state before it is read
    denoiser = trained.family.components["denoiser"]
    spoilt = next((path for path in paths if path.parent.name == denoiser), paths[0])
    tensors = load_file(spoilt)
    # one that its reader cannot make up: a missing norm is begun as ones, which is what it was
    name = max(tensors, key=lambda one: (tensors[one].unique().numel() > 1, one))
    tensor = tensors.pop(name)
    if fault != "lost":
        tensors |= {name: 2 * tensor} if fault == "doubled" else {f"{name}.x": tensor}
    save_file(tensors, spoilt, metadata={"format": "pt"})
    with pytest.raises((RecipeError, StageFailed, KeyError, ValueError, RuntimeError)):
        reloaded(trained, form, tmp_path)


def test_equal_adapters_are_equal_bytes(trained, form, tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        form.write(tmp_path / name, trained.family, trained.adapters, trained.fresh)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_the_peft_config_names_no_machine_and_no_version(trained, tmp_path) -> None:
    formats()["peft"].write(tmp_path, trained.family, trained.adapters, trained.fresh)
    for component, attached in trained.adapters.items():
        config = json.loads((tmp_path / "peft" / component / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] is None and "peft_version" not in config
        assert config["inference_mode"] is True
        assert config["target_modules"] == sorted(attached.modules)


def test_a_reader_that_takes_nothing_is_noticed(trained, tmp_path) -> None:
    model = trained.fresh()
    with pytest.raises(StageFailed, match="ignored or changed"):
        trained.expected.compare(trained.expected.trained_prediction, model, formats()["peft"])


def test_a_small_error_in_the_prediction_is_noticed(trained, tmp_path) -> None:
    form = formats()["peft"]
    form.write(tmp_path, trained.family, trained.adapters, trained.fresh)
    model = trained.fresh()
    form.read(tmp_path, model, tuple(trained.adapters))
    expected = trained.expected
    answer = expected.trained_prediction + 0.02 * (expected.trained_prediction - expected.base_prediction)
    with pytest.raises(StageFailed, match="differs by"):
        trained.expected.compare(answer, model, form)
    with pytest.raises(StageFailed):
        trained.expected.compare(answer * float("nan"), model, form)
