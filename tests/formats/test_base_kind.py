"""Is the kind of base that an adapter file is for told from its header, and an unfit one refused by its own name?"""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dbrun.errors import RecipeError
from dbrun.formats.base_kind import adapter_base_kind, base_kind, check_base_kind, with_base_kind

FLUX_1, FLUX_2 = "FLUX.1", "FLUX.2"
BLOCKS = "Stable Diffusion 3 or FLUX.1 or Chroma or FLUX.2 or Qwen-Image or Krea 2"
FLUXES = "FLUX.1 or Chroma or FLUX.2"
SD_1, SD_2, SD_3, SDXL = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "Stable Diffusion 3", "Stable Diffusion XL"
CONTEXT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
PEFT_CONTEXT = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"


def written(path: Path, name: str, width: int, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: np.zeros((4, width), np.float32)}, path, metadata)
    return path


@pytest.mark.parametrize(("name", "width", "kind"), [
    (CONTEXT, 768, SD_1), (CONTEXT, 1024, SD_2), (CONTEXT, 2048, SDXL), (CONTEXT, 32, None), (PEFT_CONTEXT, 768, SD_1),
    ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora.down.weight", 1024, SD_2),
    (CONTEXT.replace("lora_down.weight", "hada_w1_b"), 768, SD_1),
    (TEXT, 768, SD_1), (TEXT, 1024, SD_2), (TEXT.replace("lora_te_", "lora_te1_"), 768, None),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight", 768, SD_1),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", 768,
     f"{SD_1} or {SDXL} or {SD_3} or FLUX.1"),
    ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 1280, f"{SDXL} or {SD_3}"),
    ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", 1280, f"{SDXL} or {SD_3}"),
    ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", 640, SDXL),
    ("unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora_A.weight", 640, SDXL),
    ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", 3072, FLUXES),
    ("lora_unet_double_blocks_0_img_mod_lin.lora_down.weight", 3072, FLUX_1),
    ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", 3072, "FLUX.1 or Chroma"),
    ("transformer.single_transformer_blocks.0.norm.linear.lora_A.weight", 3072, FLUX_1),
    ("transformer.distilled_guidance_layer.in_proj.lora_A.weight", 64, "Chroma"),
    ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight", 3072, FLUX_2),
    ("transformer.transformer_blocks.0.ff_context.linear_in.lora_A.weight", 3072, FLUX_2),
    ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 6144, f"{FLUX_2} or Krea 2"),
    ("transformer.transformer_blocks.0.attn.to_gate.lora_A.weight", 6144, "Krea 2"),
    ("transformer.transformer_blocks.0.ff.up.lora_A.weight", 6144, "Krea 2"),
    ("transformer.transformer_blocks.0.img_mlp.net.2.lora_A.weight", 12288, "Qwen-Image"),
    ("transformer.transformer_blocks.0.attn.to_gate.lora_A.weight", 6144, "Krea 2"),
    ("transformer.layers.0.attention.to_q.lora_A.weight", 3840, "Z-Image"),
    ("base_model.model.layers.0.attention.to_out.0.lora_A.weight", 3840, "Z-Image"),
    ("diffusion_model.layers.0.feed_forward.w1.lora_A.weight", 3840, "Z-Image or Lumina 2"),
    ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 3072, "FLUX.1 or Chroma or FLUX.2 or Qwen-Image"),
    ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 32, BLOCKS),
    ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 1536, SD_3),
    ("base_model.model.transformer_blocks.0.attn.add_q_proj.lora_A.weight", 2432, SD_3),
    ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", 1536, SD_3)])
def test_names_and_shapes_tell_the_kind_of_base(tmp_path: Path, name: str, width: int, kind: str | None) -> None:
    file = written(tmp_path / "a.safetensors", name, width, {"ss_base_model_version": "anything"})
    assert adapter_base_kind([file]) == kind


@pytest.mark.parametrize(("key", "value", "kind"), [
    ("ss_base_model_version", "sd_v1", SD_1), ("ss_base_model_version", "sd_v2_768_v", SD_2),
    ("ss_base_model_version", "sdxl_base_v1-0", SDXL), ("ss_base_model_version", "flux1", FLUX_1),
    ("modelspec.architecture", "stable-diffusion-v1/lora", SD_1), ("modelspec.architecture", "other", None),
    ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora", SDXL),
    ("modelspec.architecture", "stable-diffusion-3-medium/lora", SD_3)])
def test_metadata_tells_it_where_names_do_not(tmp_path: Path, key: str, value: str, kind: str | None) -> None:
    file = written(tmp_path / "a.safetensors", "lora_unet_conv_in.lora_down.weight", 4, {key: value})
    assert adapter_base_kind([file]) == kind


@pytest.mark.parametrize(("metadata", "kind"), [
    ({"ss_base_model_version": "chroma"}, "Chroma"), ({"modelspec.architecture": "Flux.2-klein"}, FLUX_2),
    ({"dbrun": '{"recipe": {"base": {"type": "flux2_klein"}}}'}, FLUX_2), ({"dbrun": "{}"}, FLUXES),
    ({"ss_base_model_version": "sdxl_base_v1-0"}, FLUXES)])
def test_metadata_chooses_among_what_the_names_leave_open(tmp_path: Path, metadata: dict[str, str], kind: str) -> None:
    file = written(tmp_path / "a.safetensors", "lora_unet_single_blocks_0_linear1.lora_down.weight", 3072, metadata)
    assert adapter_base_kind([file]) == kind


def test_a_transformer_takes_an_adapter_whose_names_leave_its_kind_open_and_no_other(tmp_path: Path) -> None:
    config = tmp_path / "transformer" / "config.json"
    config.parent.mkdir()
    flux = written(tmp_path / "a.safetensors", "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", 3072)
    for transformer, kind, fits in (("ChromaTransformer2DModel", "Chroma", True),
                                    ("FluxTransformer2DModel", FLUX_1, True), ("NewTransformer2DModel", None, True),
                                    ("ZImageTransformer2DModel", "Z-Image", False)):
        config.write_text(json.dumps({"_class_name": transformer}))
        assert base_kind(tmp_path) == kind
        if fits:
            check_base_kind("a", [flux], tmp_path)
            continue
        with pytest.raises(RecipeError, match=r"a is for FLUX\.1 or Chroma, and the base is Z-Image"):
            check_base_kind("a", [flux], tmp_path)


def test_an_adapter_of_another_kind_of_base_is_refused_with_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    config = tmp_path / "unet" / "config.json"
    file = written(tmp_path / "xl.safetensors", CONTEXT, 2048)
    for settings, kind in (({"cross_attention_dim": 768}, SD_1), ({"cross_attention_dim": 128}, None),
                           ({"cross_attention_dim": 2048}, None), ({"cross_attention_dim": [768]}, None),
                           ({"cross_attention_dim": 2048, "addition_embed_type": "text_time"}, SDXL)):
        config.write_text(json.dumps(settings))
        assert base_kind(tmp_path) == kind
        if kind != SD_1:
            check_base_kind("xl", [file], tmp_path)
            continue
        with pytest.raises(RecipeError, match=f"xl is for {SDXL}, and the base is {SD_1}") as caught:
            check_base_kind("xl", [file], tmp_path)
        assert caught.value.fix


def test_an_error_gets_the_name_and_the_kind_once(tmp_path: Path) -> None:
    file = written(tmp_path / "xl.safetensors", CONTEXT, 2048)
    once = with_base_kind(RecipeError("it does not fit", fix="x"), "xl.safetensors", [file])
    assert once.message == f"xl.safetensors: it does not fit; it is for {SDXL}" and once.fix == "x"
    assert with_base_kind(once, "xl.safetensors", [file]).message == once.message
