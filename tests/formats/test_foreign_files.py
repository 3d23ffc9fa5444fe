"""Are files of other programs read exactly, and told by name where they cannot be?"""

import re
import shlex
from pathlib import Path

import pytest
import torch
from adapter_kinds import make, moved, put, widest
from safetensors.torch import load_file, save_file

from dbrun.errors import RecipeError, UsageError
from dbrun.formats.adapter_header import read_adapter_header
from dbrun.formats.base import formats
from dbrun.formats.foreign_names import bundled_words
from dbrun.formats.lycoris_changes import WEIGHT_CHANGES
from dbrun.models.base import Model, families
from dbrun.use.adapter_files import find_adapter
from dbrun.use.blend import Blend
from dbrun.use.describe_adapter import describe_adapter

SD = families()["sd"]
TRIGGER = {"bundle_emb.sks.string_to_param.*": torch.ones(1, 32)}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / "base"
    SD.write_tiny_base(folder)
    return folder


def fresh(base: Path) -> Model:
    return SD.load(base, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def ours(base, tmp_path_factory) -> Path:
    """A folder with one LoRA as kohya.safetensors, pytorch_lora_weights.safetensors and peft/."""
    folder, model, adapter = tmp_path_factory.mktemp("ours"), fresh(base), make("lora", rank=2)
    adapters = {name: moved(put(model, name, adapter, widest(adapter)), by=0.1) for name in SD.components}
    for name in ("kohya", "diffusers", "peft"):
        formats()[name].write(folder, SD, adapters, lambda: fresh(base))
    return folder


def changed(base: Path, file: Path) -> dict:
    return Blend(fresh(base)).changed_weights([find_adapter(str(file))])


def one_trainer(name: str) -> str:
    return name.replace("lora_te_", "lora_te1_")


def simple_tuner(name: str) -> str | None:
    return name.replace("lora_unet_", "lycoris_") if name.startswith("lora_unet_") else None


def oldest(name: str) -> str | None:
    found = re.fullmatch(r"unet\.(.*attn\d)\.to_(\w+?)(?:\.0)?\.lora_([AB])\.weight", name)
    return found and f"{found[1]}.processor.to_{found[2]}_lora.{ {'A': 'down', 'B': 'up'}[found[3]]}.weight"


@pytest.mark.parametrize(("file", "rename", "more"), [
    ("kohya", one_trainer, {}), ("kohya", simple_tuner, {}), ("kohya", one_trainer, TRIGGER),
    ("pytorch_lora_weights", oldest, {})], ids=["lora_te1_", "lycoris_", "bundle_emb", "processor"])
def test_another_trainers_names_are_read_exactly(base, ours, tmp_path, file, rename, more) -> None:
    tensors = load_file(ours / f"{file}.safetensors")
    renamed = {rename(name): (name, tensor) for name, tensor in tensors.items() if rename(name)}
    save_file({**{name: tensor for name, (_, tensor) in renamed.items()}, **more}, tmp_path / "theirs.safetensors")
    save_file(dict(renamed.values()), tmp_path / "same.safetensors")
    theirs, same = changed(base, tmp_path / "theirs.safetensors"), changed(base, tmp_path / "same.safetensors")
    assert theirs.keys() == same.keys() and theirs
    assert all(torch.equal(theirs[key], same[key]) for key in same)
    assert bundled_words(more) == (("sks",) if more else ())


def test_a_dora_is_read_by_the_names_that_diffusers_writes(base, tmp_path) -> None:
    adapter = make("dora", rank=2)
    adapters = {name: moved(put(fresh(base), name, adapter, "attention"), by=0.1) for name in SD.components}
    file, = formats()["diffusers"].write(tmp_path, SD, adapters, lambda: fresh(base))
    # diffusers 0.42 saves magnitudes by peft's short name, and its own reader passes over them in text encoders
    theirs = {name.replace("magnitude_vector.weight", "magnitude_vector"): t for name, t in load_file(file).items()}
    assert theirs.keys() != load_file(file).keys()
    same = changed(base, file)
    save_file(theirs, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    found = changed(base, tmp_path / "theirs.safetensors")
    assert found.keys() == same.keys() and all(torch.equal(found[key], same[key]) for key in same)


@pytest.mark.parametrize("name", ["model.diffusion_model.input_blocks.0.0.weight",
                                  "double_blocks.0.img_attn.qkv.weight", "layers.0.attention.qkv.weight"])
def test_a_whole_base_in_the_place_of_an_adapter_is_told_as_one(tmp_path, name) -> None:
    save_file({name: torch.ones(4, 4, 3, 3)}, tmp_path / "model.safetensors")
    for verb in (find_adapter, lambda word: describe_adapter(Path(word))):
        with pytest.raises(UsageError, match="a whole base, and no adapter"):
            verb(str(tmp_path / "model.safetensors"))


def test_the_way_out_for_pickles_works_for_lora_checkpoint_and_word(tmp_path, monkeypatch) -> None:
    layer = {"a.weight": torch.ones(2, 2)}
    files = {"lora.bin": layer, "model.ckpt": {"state_dict": layer, "global_step": 3},
             "word.pt": {"string_to_param": {"*": torch.ones(1, 4)}, "name": "word"}}
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UsageError) as caught:
            find_adapter(str(tmp_path / name))
        _, program, old, new = shlex.split(caught.value.fix.partition("python ")[2])
        monkeypatch.setattr("sys.argv", ["-c", old, new])
        exec(program, {})
    assert load_file(tmp_path / "lora.safetensors").keys() == load_file(tmp_path / "model.safetensors").keys()
    assert find_adapter(str(tmp_path / "word.safetensors")).form.NAME == "embedding"


def test_a_transformers_names_of_comfyui_are_those_of_the_denoiser(tmp_path) -> None:
    save_file({f"diffusion_model.layers.0.attention.to_q.lora_{side}.weight": torch.ones(2, 2) for side in "AB"},
              tmp_path / "z.safetensors")
    found = find_adapter(str(tmp_path / "z.safetensors"))
    assert found.components(families()["z_image"])["denoiser"][0] == "lora"
    save_file({f"diffusion_model.layers.0.attention.qkv.lora_{side}.weight": torch.ones(2, 2) for side in "AB"},
              tmp_path / "joined.safetensors")
    with pytest.raises(RecipeError, match="layers that are several of the base"):
        find_adapter(str(tmp_path / "joined.safetensors")).components(families()["z_image"])


def test_a_peft_folder_of_transformers_4_is_read_and_ours_has_the_names_of_both(base, ours, tmp_path) -> None:
    home = ours / "peft" / "text_encoder"
    tensors = load_file(home / "adapter_model.safetensors")
    older = {name: tensor for name, tensor in tensors.items() if ".text_model." in name}
    assert len(older) * 2 == len(tensors), "each weight under both names"
    theirs = tmp_path / "text_encoder"
    theirs.mkdir()
    save_file(older, theirs / "adapter_model.safetensors")
    (theirs / "adapter_config.json").write_bytes((home / "adapter_config.json").read_bytes())
    same = changed(base, home)
    found = changed(base, theirs)
    assert found.keys() == same.keys() and all(torch.equal(found[key], same[key]) for key in same)
    assert read_adapter_header(home / "adapter_model.safetensors").layers == tuple(
        sorted({re.sub(r"\.lora_[AB].*", "", name) for name in tensors if name not in older}))


def test_a_word_of_kohyas_trainers_is_read(base, tmp_path) -> None:
    place = tmp_path / "embeddings"
    place.mkdir()
    save_file({"emb_params": torch.full((2, 32), 0.5)}, place / "zwx.safetensors")
    assert find_adapter(str(place / "zwx.safetensors")).form.NAME == "embedding"
    model = fresh(base)
    formats()["embedding"].read(place / "zwx.safetensors", model, ("trigger",))
    ids = model.component("tokenizer").convert_tokens_to_ids(["<zwx>", "<zwx>_1"])
    rows = model.component("text_encoder").get_input_embeddings().weight[ids]
    assert torch.equal(rows, torch.full((2, 32), 0.5))


def test_a_rotation_that_readers_limit_differently_is_refused() -> None:
    layer = {"oft_blocks": torch.randn(2, 4, 4), "alpha": torch.tensor(1e-3)}
    change = WEIGHT_CHANGES["diag-oft"].change
    assert change is not None
    with pytest.raises(RecipeError, match="limit"):
        change(torch.randn(8, 3), layer)
    with pytest.raises(RecipeError, match="BOFT"):
        change(torch.randn(8, 3), {"oft_blocks": torch.randn(3, 2, 4, 4)})
    weight = torch.randn(8, 3)
    turned = weight + change(weight, {**layer, "alpha": torch.tensor(0.0)})
    torch.testing.assert_close(turned.norm(dim=0), weight.norm(dim=0)), "a rotation keeps lengths"
    with pytest.raises(ValueError, match="outputs"):
        change(torch.randn(9, 3), layer)
