"""Is a file that lycoris-lora wrote drawn with, summed and converted as lycoris-lora itself reads it?"""

import pytest
import torch
from lycoris_reader import put_by_lycoris, write_by_lycoris
from safetensors.torch import load_file, save_file

from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import families
from dbrun.use.adapter_files import find_adapter
from dbrun.use.blend import Blend
from dbrun.use.convert import import_file, write_adapter_file, write_sum

SD, PROBE = families()["sd"], Probe("a photo of sks dog", 32)


def predicted(world, path) -> torch.Tensor:
    model = world.fresh()
    Blend(model).apply([find_adapter(str(path))])
    return PROBE.predict(model)


@pytest.mark.parametrize(("algo", "to"), [
    ("locon", "diffusers"), pytest.param("loha", "peft", marks=pytest.mark.slow),
    pytest.param("lokr", "kohya", marks=pytest.mark.slow)])
def test_it_is_drawn_with_converted_and_summed(world, tmp_path, algo, to) -> None:
    path, theirs = tmp_path / "theirs.safetensors", world.fresh()
    # ranks and scales of their own on convolutions, where one adapter of ours can be that
    conv = {"conv_lora_dim": 4, "conv_alpha": 2.0} if algo == "lokr" else {"conv_lora_dim": 2, "conv_alpha": 1.0}
    write_by_lycoris(world.fresh(), path, algo, lora_dim=4, alpha=2.0, **conv)
    put_by_lycoris(theirs, path)
    expected = PROBE.predict(theirs)
    assert (predicted(world, path) - expected).abs().max() < 1e-4
    part, target = find_adapter(str(path)), tmp_path / ("ours" if to == "peft" else "ours.safetensors")
    adapters, _ = import_file(part, world.at_hand, world.fresh())
    write_adapter_file(adapters, world.at_hand, formats()[to], target, {}, [part])
    assert (predicted(world, target) - expected).abs().max() < 1e-4
    write_sum([part], world.at_hand, tmp_path / "sum.safetensors", {})
    assert (predicted(world, tmp_path / "sum.safetensors") - expected).abs().max() < 1e-4


def test_one_with_norms_beside_is_drawn_with_and_made_no_other_format_of(world, tmp_path) -> None:
    """`train_norm` of LyCORIS: what is of several types is no one adapter."""
    path = world.write("with-norms", "kohya", world.adapters("lora", 31, "denoiser"))
    save_file({**load_file(path), "lora_unet_conv_norm_out.w_norm": torch.ones(16),
               "lora_unet_conv_norm_out.b_norm": torch.ones(16)}, path)
    theirs, model, part = world.fresh(), world.fresh(), find_adapter(str(path))
    put_by_lycoris(theirs, path)
    assert (predicted(world, path) - PROBE.predict(theirs)).abs().max() < 1e-4
    assert part.components(SD)["denoiser"][0] == "lora and norm"
    with pytest.raises(RecipeError, match="of several types: lora, norm"):
        import_file(part, world.at_hand, model)
    difference = write_sum([part], world.at_hand, tmp_path / "sum.safetensors", {})
    assert difference < 1e-4
