"""Are layers that kohya's files join the same as the base's own, to diffusers' converter and back?"""

from pathlib import Path

import pytest
import torch
from adapter_kinds import make, moved, put
from safetensors.torch import load_file, save_file

from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.formats.joined_layers import JoinedLayers
from dbrun.formats.weight_diff import write_weight_diff
from dbrun.models.base import Model, families
from dbrun.models.flux_layers import joined_layers
from dbrun.use.adapter_files import find_adapter
from dbrun.use.blend import Blend

FLUX, WIDTH, RANK = families()["flux"], 3072, 2
"""diffusers' converter has the published width written down, but not the number of inputs."""
DOUBLE, SINGLE = "transformer_blocks.0.", "single_transformer_blocks.0."
OUTPUTS = {**{f"{DOUBLE}attn.{name}": WIDTH for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj",
                                                         "add_v_proj", "to_add_out")},
           **{f"{SINGLE}attn.{name}": WIDTH for name in ("to_q", "to_k", "to_v")},
           f"{SINGLE}proj_mlp": 4 * WIDTH, f"{SINGLE}proj_out": WIDTH, f"{DOUBLE}norm1.linear": 6 * WIDTH}
LAYERS = JoinedLayers(
    {"lora_unet_" + name.replace(".", "_"): joined for name, joined in joined_layers(OUTPUTS).items()}, OUTPUTS)


def lora(outputs: int, seed: int, rank: int = RANK) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"lora_down.weight": torch.randn(rank, 8, generator=draw), "alpha": torch.tensor(3.0),
            "lora_up.weight": torch.randn(outputs, rank, generator=draw)}


def update(layer: dict[str, torch.Tensor]) -> torch.Tensor:
    down, up = layer["lora_down.weight"], layer["lora_up.weight"]
    return up @ down * (layer["alpha"] / len(down))


def converted(layers: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Layer -> its update, as diffusers converts the file."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers as convert

    found = convert({f"{name}.{end}": tensor.clone() for name, layer in layers.items()
                     for end, tensor in layer.items()})
    return {name.removeprefix("transformer.").removesuffix(".lora_B.weight"):
            up @ found[name.replace("lora_B", "lora_A")] for name, up in found.items() if "lora_B" in name}


def test_what_is_joined_is_what_diffusers_splits() -> None:
    ours = {name: lora(size, seed) for seed, (name, size) in enumerate(OUTPUTS.items())}
    # one of the four layers that `linear1` joins is not adapted
    del ours[f"{SINGLE}proj_mlp"]
    theirs = converted(LAYERS.join_loras(ours))
    for name, layer in ours.items():
        torch.testing.assert_close(theirs.pop(name), update(layer))
    assert all(not tensor.any() for tensor in theirs.values())


def test_a_layer_that_was_trained_as_one_is_split_as_diffusers_does_it() -> None:
    whole = {"lora_unet_double_blocks_0_img_attn_qkv": lora(3 * WIDTH, 1),
             "lora_unet_single_blocks_0_linear1": lora(7 * WIDTH, 2),
             "lora_unet_single_blocks_0_linear2": lora(WIDTH, 3)}
    theirs = converted(whole)
    split = {part: share for name, layer in whole.items() for part, share in LAYERS.split(name, layer).items()}
    assert split.keys() == theirs.keys() and len(split) == 8
    for part, share in split.items():
        torch.testing.assert_close(update(share), theirs[part])


def test_what_is_joined_is_split_into_what_it_was() -> None:
    ours = {f"{SINGLE}attn.to_q": lora(WIDTH, 1), f"{SINGLE}proj_mlp": lora(4 * WIDTH, 2)}
    (name, whole), = LAYERS.join_loras(ours).items()
    back = LAYERS.split(name, whole)
    assert back.keys() == ours.keys() and {len(layer["lora_down.weight"]) for layer in back.values()} == {RANK}
    for part, layer in ours.items():
        torch.testing.assert_close(update(back[part]), update(layer))


@pytest.mark.parametrize(("layer", "told"), [
    ({"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(2, 2)}, "cannot be split"),
    (lora(3 * WIDTH + 3, 1), "of another size")])
def test_a_joined_layer_that_cannot_be_split_is_refused(layer, told) -> None:
    with pytest.raises(RecipeError, match=told):
        LAYERS.split("lora_unet_double_blocks_0_img_attn_qkv", layer)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("joined") / "base"
    FLUX.write_tiny_base(folder)
    return folder


def fresh(base: Path) -> Model:
    return FLUX.load(base, device=torch.device("cpu"), dtype=torch.float32)


def changed(base: Path, file: Path) -> dict:
    return Blend(fresh(base)).changed_weights([find_adapter(str(file))])


def test_every_layer_of_a_transformer_goes_through_the_file_and_its_differences(base, tmp_path) -> None:
    adapter = make("lora", rank=2, alpha=6.0)
    adapters = {name: moved(put(fresh(base), name, adapter, "linear"), by=0.1) for name in FLUX.components}
    for name in ("diffusers", "kohya"):
        (tmp_path / name).mkdir()
        formats()[name].write(tmp_path / name, FLUX, adapters, lambda: fresh(base))
    wanted, found = changed(base, tmp_path / "diffusers"), changed(base, tmp_path / "kohya")
    assert wanted.keys() == found.keys() and len(wanted) == sum(len(one.modules) for one in adapters.values())
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor)

    model = fresh(base)
    differences = {(component, name): tensor - model.module(component).get_parameter(name).detach()
                   for (component, name), tensor in wanted.items()}
    (tmp_path / "full").mkdir()
    file, = write_weight_diff(tmp_path / "full", model, differences)
    whole = load_file(file)
    assert whole["lora_unet_single_blocks_0_linear1.diff"].shape == (3 * 32 + 4 * 32, 32)
    again = changed(base, file)
    for key, tensor in wanted.items():
        torch.testing.assert_close(again[key], tensor)


def test_one_trainers_own_names_are_read(base, tmp_path) -> None:
    name = "transformer_blocks_0_attn_to_q"
    for prefix in ("lora_transformer_", "lycoris_", "lora_unet_"):
        tensors = {"lora_down.weight": torch.ones(2, 32), "lora_up.weight": torch.ones(32, 2),
                   "alpha": torch.tensor(2.0)}
        save_file({f"{prefix}{name}.{end}": tensor for end, tensor in tensors.items()}, tmp_path / "theirs.safetensors")
        (key,) = changed(base, tmp_path / "theirs.safetensors")
        assert key == ("denoiser", "transformer_blocks.0.attn.to_q.weight")


def test_kohyas_names_for_another_transformer_are_refused_in_words(tmp_path) -> None:
    save_file({"lora_unet_layers_0_attention_qkv.lora_down.weight": torch.ones(2, 32)}, tmp_path / "z.safetensors")
    with pytest.raises(RecipeError, match="kohya's names, which dbrun does not read for a base of type z_image"):
        find_adapter(str(tmp_path / "z.safetensors")).components(families()["z_image"])
