"""Does what adapters of any type add up to come whole through names that other programs read?"""

import re

import pytest
import torch
from adapter_kinds import make, moved, put, widest
from lycoris_reader import put_by_lycoris
from representatives import cases
from safetensors.torch import load_file, save_file

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, read_weights
from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe
from dbrun.formats.weight_diff import passed_over
from dbrun.models.base import families
from dbrun.safetensors_header import read_provenance
from dbrun.use.adapter_files import AdapterFile, find_adapter
from dbrun.use.bases import LocalBase
from dbrun.use.blend import Blend
from dbrun.use.convert import write_sum

SD, PROBE = families()["sd"], Probe("a photo of sks dog", 32)
BLOCK = r"lora_unet_(down_blocks_\d|mid_block|up_blocks_\d)"
LISTED = [rf"{BLOCK}_attentions_\d_norm", rf"{BLOCK}_attentions_\d_transformer_blocks_\d_norm[123]",
          rf"{BLOCK}_resnets_\d_norm[12]", "lora_unet_out_0"]
"""Norms by comfy/utils.py (Comfy-Org/ComfyUI @09708eae): UNET_MAP_ATTENTIONS, TRANSFORMER_BLOCKS, UNET_MAP_RESNET,
UNET_MAP_BASIC, where the last one has its original name. The ends `w_norm`, `b_norm`, `diff` and `diff_b`:
comfy/lora.py @17358c8f, load_lora.
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("difference") / "base"
    SD.write_tiny_base(folder)
    return LocalBase(SD, "base", "files:0", folder, None)


def adapter(base: LocalBase, home, kind: str, form: str, component: str, seed: int) -> AdapterFile:
    model = base.load(device="cpu")
    if kind == "full":
        module = model.module(component)
        names = tuple(name for name, _ in module.named_children())
        attach(module, make("full"), names, seed=0)
        attached = moved(ComponentAdapter(make("full").resolved_for(names), names, read_weights(module)), by=0.02,
                         seed=seed)
    else:
        attached = moved(put(model, component, make(kind), widest(make(kind))), by=0.1, seed=seed)
    folder = home / f"{kind}-{seed}"
    folder.mkdir()
    formats()[form].write(folder, SD, {component: attached}, lambda: base.load(device="cpu"))
    return find_adapter(str(folder))


def test_what_programs_do_not_read_of_it_is_named() -> None:
    # `misses conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias`, of A1111's own loader
    name = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.diff_b"
    plain, biases = passed_over({name: {"shape": [1280]}})
    assert "diffusers refuses it" in plain and biases.startswith("A1111 ignores 1 biases") and name in biases
    # transformers' layout, in which A1111 finds them
    assert passed_over({name.replace("te2", "te1"): {"shape": [768]}, "lora_unet_out_0.diff_b": {"shape": [4]}}) == (
        plain,)


@pytest.mark.parametrize("kinds", cases([("full", "loha"), ("dora", "oft"), ("full",)], 0), ids="+".join)
def test_lycoris_reads_the_sum_of_any_types(base, tmp_path, kinds) -> None:
    forms = {"dora": "diffusers", "oft": "peft", "full": "component", "loha": "kohya"}
    parts = [adapter(base, tmp_path, kind, forms[kind], "denoiser", i) for i, kind in enumerate(kinds)]
    if kinds == ("dora", "oft"):
        parts.append(adapter(base, tmp_path, "dora", "peft", "text_encoder", 9))
    write_sum(parts, base, tmp_path / "sum.safetensors", {"format_version": 1, "x": "y"})
    together, theirs, bare = (base.load(device="cpu") for _ in range(3))
    Blend(together).apply(parts)
    # lycoris knows the last norm by diffusers' name alone, ComfyUI and A1111 by the original one
    renamed = {name.replace("_out_0.", "_conv_norm_out.") if name.startswith("lora_unet_out_0.") else name: tensor
               for name, tensor in load_file(tmp_path / "sum.safetensors").items()}
    save_file(renamed, tmp_path / "renamed.safetensors")
    put_by_lycoris(theirs, tmp_path / "renamed.safetensors")
    expected = PROBE.predict(together)
    assert (PROBE.predict(theirs) - expected).abs().max() < 1e-4
    assert (PROBE.predict(bare) - expected).abs().max() > 1e-2
    assert read_provenance(tmp_path / "sum.safetensors") == {"format_version": 1, "x": "y"}
    again = base.load(device="cpu")
    Blend(again).apply([find_adapter(str(tmp_path / "sum.safetensors"))])
    assert (PROBE.predict(again) - expected).abs().max() < 1e-4


def test_each_norm_has_a_name_that_comfyui_looks_for(base, tmp_path) -> None:
    write_sum([adapter(base, tmp_path, "full", "component", "denoiser", 0)], base, tmp_path / "sum.safetensors", {})
    tensors = load_file(tmp_path / "sum.safetensors")
    norms = {name.partition(".")[0] for name in tensors if name.endswith("w_norm")}
    assert norms and all(any(re.fullmatch(pattern, name) for pattern in LISTED) for name in norms)
    assert {name.partition(".")[2] for name in tensors} == {"diff", "diff_b", "w_norm", "b_norm"}
    assert len(tensors) == len(dict(base.load(device="cpu").pipeline.unet.named_parameters()))


def test_what_no_program_has_a_name_for_is_refused(base, tmp_path) -> None:
    part = adapter(base, tmp_path, "full", "component", "text_encoder", 0)
    with pytest.raises(RecipeError, match=r"of the text_encoder changes, and other programs have no name") as caught:
        write_sum([part], base, tmp_path / "sum.safetensors", {})
    assert "single_file" in str(caught.value.fix) and not (tmp_path / "sum.safetensors").exists()


def test_a_layer_of_another_size_is_refused(base, tmp_path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    for tensors in ({f"{name}.diff": torch.ones(3, 3, 1, 1)}, {"lora_unet_conv_norm_out.w_norm": torch.ones(16),
                                                              "lora_unet_conv_norm_out.b_norm": torch.ones(1)}):
        save_file(tensors, tmp_path / "odd.safetensors")
        with pytest.raises(RecipeError, match="is of another size in the base"):
            Blend(base.load(device="cpu")).apply([find_adapter(str(tmp_path / "odd.safetensors"))])
