"""Does what leaves the house work elsewhere, say where it comes from, and show what was learnt?"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from representatives import cases

from dbrun.adapters.adapter_io import read_adapters, write_adapters
from dbrun.errors import StageFailed
from dbrun.formats.merge_weights import merge_adapter
from dbrun.models.base import families
from dbrun.safetensors_header import read_provenance
from dbrun.stages.base import stages
from dbrun.stages.export import default_prompts
from dbrun.stages.sources import Artifact, Picture, Sources
from dbrun.stages.support.provenance import portable_recipe

NOTHING = Sources(None, ())
BOTH = {"denoiser": {"type": "lora", "rank": 2, "alpha": 6.0, "targets": "all"},
        "text_encoder": {"type": "lora", "rank": 2, "alpha": 1.0, "targets": "attention+ff"}}


def train(bench):
    """Give a bench's denoiser and text encoder adapters that are far from their start."""
    chosen = bench.recipe(adapt=BOTH, samples={"prompts": ("a photo of sks dog",), "steps": 1})
    bench.run("load", chosen)
    bench.run("adapt", chosen)
    folder = bench.home / "trained"
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    adapters = read_adapters(bench.artifacts["adapt"].path)
    for attached in adapters.values():
        attached.state.update({k: t + 0.1 * torch.randn(t.shape, generator=draw) for k, t in attached.state.items()})
    write_adapters(folder, adapters)
    rows = [{"step": i, "instance_loss": 1 / i, "prior_loss": 0.5, "loss": 1.0} for i in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench.artifacts["train"] = Artifact(folder, "7" * 64)
    bench.chosen = chosen
    return bench


@pytest.fixture
def trained(bench):
    """A bench with trained adapters, for tests that export from it."""
    return train(bench)


@pytest.fixture(scope="module")
def exported(shared_bench):
    """A bench after its export; tests only read it."""
    train(shared_bench)
    shared_bench.run("export", shared_bench.chosen)
    return shared_bench


def test_both_libraries_read_back_what_was_trained(exported) -> None:
    """Model as a user would, each gives the pictures' model; without it the picture is another."""
    from peft import PeftModel

    out = exported.artifacts["export"].path
    family = families()["sd"]

    def fresh():
        return family.load(exported.base, device=torch.device("cpu"), dtype=torch.float32)

    def drawn(model) -> np.ndarray:
        picture = model.generate("a photo of sks dog", seed=5, steps=2, guidance=2.0, resolution=32)
        return np.asarray(picture, int)
    own = fresh()
    plain = drawn(own)
    for name, attached in read_adapters(exported.artifacts["train"].path).items():
        attached.attach_to(own.module(name))
    expected = drawn(own)
    by_diffusers = fresh()
    by_diffusers.pipeline.load_lora_weights(str(out))
    uses_peft = fresh()
    parts = uses_peft.pipeline
    parts.unet = PeftModel.from_pretrained(parts.unet, out / "peft" / "denoiser")
    parts.text_encoder = PeftModel.from_pretrained(parts.text_encoder, out / "peft" / "text_encoder")
    assert abs(plain - expected).max() > 8
    assert abs(drawn(by_diffusers) - expected).max() <= 1
    assert abs(drawn(uses_peft) - expected).max() <= 1


def test_every_file_is_there(exported, content) -> None:
    assert set(content(exported.artifacts["export"].path)) == {
        "README.md", "before_after.png", "loss.png", "pytorch_lora_weights.safetensors", "kohya.safetensors",
        "samples/samples.json", "samples/base/00.png", "samples/adapted/00.png",
        *(f"peft/{c}/{f}" for c in BOTH for f in ("adapter_config.json", "adapter_model.safetensors"))}


def test_only_the_asked_formats_are_written(trained, content) -> None:
    only = trained.chosen.model_copy(update={"export": ("peft",)})
    assert "pytorch_lora_weights.safetensors" not in content(trained.run("export", only).path)


def test_equal_runs_are_equal_bytes(exported, trained, content) -> None:
    again = content(trained.run("export", trained.chosen).path)
    assert again == content(exported.artifacts["export"].path)


def test_a_pictures_bytes_do_not_depend_on_how_many_there_are(exported, trained, content) -> None:
    prompts = ("a photo of sks dog", "sks dog in snow", "sks dog at night", "sks dog in a car", "a dog")
    more = content(trained.run("export", trained.chosen.model_copy(
        update={"samples": trained.chosen.samples.model_copy(update={"prompts": prompts})})).path)
    one = content(exported.artifacts["export"].path)
    assert [name for name in one if name.startswith("samples/") and name.endswith(".png")] == [
        "samples/adapted/00.png", "samples/base/00.png"]
    for row in ("base", "adapted"):
        assert more[f"samples/{row}/00.png"] == one[f"samples/{row}/00.png"]
        assert len({more[f"samples/{row}/{column:02}.png"] for column in range(5)}) == 5


def test_no_file_names_this_machine(exported, content) -> None:
    for name, data in content(exported.artifacts["export"].path).items():
        assert str(exported.home).encode() not in data and str(exported.base).encode() not in data, name


@pytest.mark.parametrize("file", ["pytorch_lora_weights.safetensors", "peft/denoiser/adapter_model.safetensors",
                                  "peft/text_encoder/adapter_model.safetensors"])
def test_each_file_says_what_made_it(exported, file) -> None:
    document = read_provenance(exported.artifacts["export"].path / file)
    assert document["format_version"] == 1 and document["instance_prompt"] == "a photo of sks dog"
    assert document["trigger"] == "sks" and document["licence"] == "unknown"
    assert document["inputs"] == {n: exported.artifacts[n].digest for n in ("load", "adapt", "train")}
    recipe = document["recipe"]
    assert [p["digest"] for p in recipe["subject"]["pictures"]] == sorted(exported.files)
    assert recipe["adapt"]["denoiser"]["rank"] == 2 and recipe["train"]["learning_rate"] == 1e-2
    check = document["self_check"]
    assert 0 <= check["difference"] <= check["allowed"] < check["effect"]
    assert check["format"] == ("peft" if file.startswith("peft/") else "diffusers")
    assert document["libraries"]["torch"] == ".".join(torch.__version__.split(".")[:2])


def test_a_name_a_place_or_upkeep_is_no_part_of_the_provenance(bench, recipe) -> None:
    one = portable_recipe(recipe(), bench.sources(recipe()))
    other = recipe(name="other", export=("peft",), threads=2, base={"path": "elsewhere"},
                   train={"checkpoint_every": 7, "keep": 5}, samples={"seed": 9})
    assert portable_recipe(other, bench.sources(other)) == one
    assert portable_recipe(recipe(seed=1), bench.sources(recipe())) != one


def test_provenance_knows_class_pictures_by_content_and_no_word_that_nothing_reads(bench, recipe) -> None:
    usual = bench.sources(recipe())
    own = replace(usual, class_pictures=(Picture("1" * 64, "a dog in the snow"),))
    none = {"count": None, "steps": None, "guidance": None}
    assert portable_recipe(recipe(), usual)["prior"] == {"count": 2, "weight": 1.0, "steps": 2, "guidance": 2.0}
    assert portable_recipe(recipe(prior={"count": None}), usual)["prior"]["count"] == 100
    assert portable_recipe(recipe(prior={**none, "images": "/home/me/dogs"}), own)["prior"] == {
        "weight": 1.0, "pictures": [{"digest": "1" * 64, "prompt": "a dog in the snow"}]}
    found = portable_recipe(recipe(prior={**none, "target": "base"}), usual)
    assert found["prior"] == {"weight": 1.0, "target": "base"}


def test_the_sheet_has_a_row_before_and_one_after(exported) -> None:
    page = np.asarray(Image.open(exported.artifacts["export"].path / "before_after.png").convert("RGB"), int)
    side = 256
    top = page.shape[0] - 24 - 2 * side - 12
    base, adapted = page[top:top + side, -24 - side:-24], page[top + side + 12:top + 2 * side + 12, -24 - side:-24]
    assert base.std() > 1 and adapted.std() > 1 and abs(base - adapted).mean() > 1


def test_pictures_are_kept_for_the_next_export(trained) -> None:
    chosen = trained.chosen.model_copy(update={"export": ("peft",)})
    trained.run("export", trained.chosen)
    assert len(trained.items.made) == 2
    trained.run("export", chosen)
    assert len(trained.items.made) == 2
    trained.artifacts["train"] = Artifact(trained.artifacts["train"].path, "8" * 64)
    trained.run("export", chosen)
    assert len(trained.items.made) == 3, "another adapter: only the adapted row is drawn anew"


@pytest.mark.parametrize("setting", cases(
    [{"seed": 3}, {"steps": 3}, {"guidance": 5.0}, {"prompts": ("a cat",)}], 3))
def test_each_setting_of_the_samples_shows(trained, content, setting) -> None:
    chosen = trained.chosen.model_copy(update={"export": ("peft",)})
    one = content(trained.run("export", chosen).path)
    samples = chosen.samples.model_copy(update=setting)
    other = content(trained.run("export", chosen.model_copy(update={"samples": samples})).path)
    # the model card says how the pictures were drawn
    assert sorted(name for name in one if one[name] != other[name]) == [
        "README.md", "before_after.png", "samples/adapted/00.png", "samples/base/00.png", "samples/samples.json"]


def test_prompts_left_out_show_the_subject_in_places_and_the_class(recipe) -> None:
    prompts = default_prompts(recipe(), NOTHING)
    assert prompts[0] == "a photo of sks dog" and prompts[-2:] == ("a photo of a dog",) * 2
    assert all(p.startswith("a photo of sks dog ") for p in prompts[1:-2]) and len(prompts) >= 6
    several = recipe(subject={"class_prompt": ("a dog", "a dog at sea", "x")})
    assert default_prompts(several, NOTHING)[-2:] == ("a dog", "a dog at sea")
    assert "a photo of a dog" not in default_prompts(recipe(prior=None, subject={"class_prompt": None}), NOTHING)


def test_prompts_left_out_show_every_subject_and_its_class(recipe) -> None:
    subjects = tuple({"images": "x", "instance_prompt": f"sks{i} dog", "class_prompt": "a dog"} for i in range(9))
    shown = default_prompts(recipe(subject=None, subjects=subjects[:2]), NOTHING)
    assert shown == ("sks0 dog", "sks0 dog in the snow", "a dog", "sks1 dog", "sks1 dog on the moon", "a dog")
    assert len(default_prompts(recipe(subject=None, subjects=subjects), NOTHING)) == 16


def test_prompts_left_out_are_the_pictures_own_where_there_is_no_instance_prompt(recipe) -> None:
    captioned = recipe(prior=None, subject={"instance_prompt": None, "class_prompt": None,
                                            "captions": {"type": "filename"}})
    pictures = tuple(Picture(str(i), f"caption {i // 2}") for i in range(20))
    assert default_prompts(captioned, Sources(None, pictures)) == tuple(f"caption {i}" for i in range(5))


def test_an_adapter_that_changes_nothing_is_refused_unless_it_never_trained(trained) -> None:
    adapters = read_adapters(trained.artifacts["adapt"].path)
    folder = trained.artifacts["train"].path
    write_adapters(folder, adapters)
    trained.run("export", trained.chosen)
    assert any("did not change" in getattr(e, "text", "") for e in trained.events)
    for attached in adapters.values():
        attached.state.update({k: t * 2 for k, t in attached.state.items()})
    write_adapters(folder, adapters)
    with pytest.raises(StageFailed, match="changes no prediction"):
        trained.run("export", trained.chosen)


def test_its_declared_libraries_are_installed() -> None:
    from importlib.metadata import version

    assert all(version(name) for name in stages()["export"].libraries)


@pytest.mark.slow
def test_an_adapter_trained_in_16_bits_is_checked_in_16_and_merged_in_32(trained) -> None:
    """A merge in 16 bits would round most of a small update away."""
    from safetensors.torch import load_file

    settings = trained.chosen.train.model_copy(update={"precision": "bf16"})
    chosen = trained.chosen.model_copy(update={"train": settings, "export": ("component", "kohya", "peft")})
    out = trained.run("export", chosen).path
    merged = load_file(out / "component" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
    exact = families()["sd"].load(trained.base, device=torch.device("cpu"), dtype=torch.float32)
    read_adapters(trained.artifacts["train"].path)["denoiser"].attach_to(exact.module("denoiser"))
    merge_adapter(exact.module("denoiser"))
    assert all(torch.equal(merged[name], tensor) for name, tensor in exact.module("denoiser").state_dict().items())
    checks = {path.name: read_provenance(path)["self_check"] for path in out.rglob("*.safetensors")}
    assert 0 < checks["kohya.safetensors"]["difference"] <= checks["kohya.safetensors"]["allowed"]
