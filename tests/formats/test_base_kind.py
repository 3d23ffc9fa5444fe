"""Is the kind of base that an adapter file is for told from its header, and an unfit one refused by its own name?"""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dbrun.errors import RecipeError
from dbrun.formats.base_kind import adapter_base_kind, base_kind, check_base_kind, with_base_kind

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
    ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 1280, SDXL),
    ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", 1280, SDXL),
    ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", 640, SDXL),
    ("unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.lora_A.weight", 640, SDXL),
    ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", 3072, "FLUX"),
    ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", 3072, "FLUX"),
    ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 1536, SD_3),
    ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", 1536, SD_3)])
def test_names_and_shapes_tell_the_kind_of_base(tmp_path: Path, name: str, width: int, kind: str | None) -> None:
    file = written(tmp_path / "a.safetensors", name, width, {"ss_base_model_version": "anything"})
    assert adapter_base_kind([file]) == kind


@pytest.mark.parametrize(("key", "value", "kind"), [
    ("ss_base_model_version", "sd_v1", SD_1), ("ss_base_model_version", "sd_v2_768_v", SD_2),
    ("ss_base_model_version", "sdxl_base_v1-0", SDXL), ("ss_base_model_version", "flux1", "FLUX"),
    ("modelspec.architecture", "stable-diffusion-v1/lora", SD_1), ("modelspec.architecture", "other", None),
    ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora", SDXL),
    ("modelspec.architecture", "stable-diffusion-3-medium/lora", SD_3)])
def test_metadata_tells_it_where_names_do_not(tmp_path: Path, key: str, value: str, kind: str | None) -> None:
    file = written(tmp_path / "a.safetensors", "lora_unet_conv_in.lora_down.weight", 4, {key: value})
    assert adapter_base_kind([file]) == kind


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
