"""Folders of published bases, to count memory before a download: their configs, and weight files that hold no weights.

The configs are written by hand from the makers' pages. A weight file has a header with the published names and shapes,
and a hole in place of the weights, so a folder takes a few megabytes of disk and can only be counted, never loaded.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from dbrun.models.base import families
from dbrun.models.ldm_layouts import PUBLISHED
from dbrun.models.qwen_latents import template_tokenizer
from dbrun.models.tiny_text import byte_tokenizer, chat_tokenizer, letter_tokenizer

CLIP_L = {"architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model", "hidden_size": 768,
          "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "projection_dim": 768,
          "max_position_embeddings": 77, "vocab_size": 49408, "hidden_act": "quick_gelu", "bos_token_id": 0,
          "eos_token_id": 2, "pad_token_id": 1}
CLIP_G = {**CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
          "projection_dim": 1280, "hidden_act": "gelu"}
T5_XXL = {"architectures": ["T5EncoderModel"], "model_type": "t5", "vocab_size": 32128, "d_model": 4096, "d_kv": 64,
          "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu",
          "relative_attention_num_buckets": 32, "tie_word_embeddings": False}
QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728,
         "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
         "max_position_embeddings": 40960, "tie_word_embeddings": True}
QWEN25_VL = {
    "model_type": "qwen2_5_vl", "tie_word_embeddings": False,
    "text_config": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 128000,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}},
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                      "out_hidden_size": 3584, "fullatt_block_indexes": [7, 15, 23, 31]}}
QWEN3_VL = {
    "model_type": "qwen3_vl", "tie_word_embeddings": True,
    "text_config": {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                    "max_position_embeddings": 262144,
                    "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
                                        "mrope_interleaved": True}},
    "vision_config": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16,
                      "out_hidden_size": 2560, "num_position_embeddings": 2304,
                      "deepstack_visual_indexes": [5, 11, 17]}}
KL_16 = {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 16,
         "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 1024,
         "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159,
         "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}


@dataclass(frozen=True)
class PublishedBase:
    """Configs of a published base, without what is the default of their classes.

    pipeline: its class; configs: component → its config; tokenizers: folder → what writes one of the same kind;
    classes: text encoder or tokenizer → its class; index: more of model_index.json.
    """

    pipeline: str
    configs: Mapping[str, Mapping[str, Any]]
    tokenizers: Mapping[str, Callable[[], Any]]
    scheduler: Mapping[str, Any]
    classes: Mapping[str, str]
    index: Mapping[str, Any] = field(default_factory=dict)


PUBLISHED_BASES = {
    "flux": PublishedBase(
        "FluxPipeline",
        {"text_encoder": {**CLIP_L, "architectures": ["CLIPTextModel"]}, "text_encoder_2": T5_XXL, "vae": KL_16,
         "transformer": {"_class_name": "FluxTransformer2DModel", "in_channels": 64, "num_layers": 19,
                         "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
                         "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True}},
        {"tokenizer": byte_tokenizer, "tokenizer_2": lambda: letter_tokenizer(512)},
        {"shift": 3.0, "use_dynamic_shifting": True},
        {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel", "tokenizer": "CLIPTokenizer",
         "tokenizer_2": "T5TokenizerFast"}),
    "sd3": PublishedBase(
        "StableDiffusion3Pipeline",
        {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL,
         "vae": {**KL_16, "scaling_factor": 1.5305, "shift_factor": 0.0609},
         "transformer": {"_class_name": "SD3Transformer2DModel", "sample_size": 128, "patch_size": 2,
                         "in_channels": 16, "out_channels": 16, "num_layers": 24, "attention_head_dim": 64,
                         "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
                         "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
                         "dual_attention_layers": list(range(13))}},
        {"tokenizer": byte_tokenizer, "tokenizer_2": byte_tokenizer, "tokenizer_3": lambda: letter_tokenizer(512)},
        {"shift": 3.0},
        {"text_encoder": "CLIPTextModelWithProjection", "text_encoder_2": "CLIPTextModelWithProjection",
         "text_encoder_3": "T5EncoderModel", "tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer",
         "tokenizer_3": "T5TokenizerFast"}),
    "chroma": PublishedBase(
        "ChromaPipeline",
        {"text_encoder": T5_XXL, "vae": KL_16, "transformer": {"_class_name": "ChromaTransformer2DModel"}},
        {"tokenizer": lambda: letter_tokenizer(512)}, {"shift": 1.0},
        {"text_encoder": "T5EncoderModel", "tokenizer": "T5TokenizerFast"}),
    "qwen_image": PublishedBase(
        "QwenImagePipeline",
        {"text_encoder": QWEN25_VL, "vae": {"_class_name": "AutoencoderKLQwenImage"},
         "transformer": {"_class_name": "QwenImageTransformer2DModel", "patch_size": 2, "in_channels": 64,
                         "out_channels": 16, "num_layers": 60, "attention_head_dim": 128, "num_attention_heads": 24,
                         "joint_attention_dim": 3584, "guidance_embeds": False, "axes_dims_rope": [16, 56, 56]}},
        {"tokenizer": template_tokenizer},
        {"base_shift": 0.5, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02,
         "use_dynamic_shifting": True},
        {"text_encoder": "Qwen2_5_VLForConditionalGeneration", "tokenizer": "Qwen2Tokenizer"}),
    "krea2": PublishedBase(
        "Krea2Pipeline",
        {"text_encoder": QWEN3_VL, "vae": {"_class_name": "AutoencoderKLQwenImage"},
         "transformer": {"_class_name": "Krea2Transformer2DModel"}},
        {"tokenizer": template_tokenizer},
        {"base_shift": 0.5, "max_shift": 1.15, "max_image_seq_len": 6400, "use_dynamic_shifting": True},
        {"text_encoder": "Qwen3VLModel", "tokenizer": "Qwen2Tokenizer"},
        {"is_distilled": False, "patch_size": 2,
         "text_encoder_select_layers": [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35]}),
    "z_image": PublishedBase(
        "ZImagePipeline",
        {"text_encoder": QWEN3, "vae": KL_16, "transformer": {"_class_name": "ZImageTransformer2DModel"}},
        {"tokenizer": chat_tokenizer}, {"shift": 6.0},
        {"text_encoder": "Qwen3Model", "tokenizer": "Qwen2Tokenizer"}),
    "flux2_klein": PublishedBase(
        "Flux2KleinPipeline",
        {"text_encoder": QWEN3, "vae": {"_class_name": "AutoencoderKLFlux2"},
         "transformer": {"_class_name": "Flux2Transformer2DModel", "in_channels": 128, "num_layers": 5,
                         "num_single_layers": 20, "attention_head_dim": 128, "num_attention_heads": 24,
                         "joint_attention_dim": 7680, "timestep_guidance_channels": 256, "mlp_ratio": 3.0,
                         "axes_dims_rope": [32, 32, 32, 32], "guidance_embeds": False}},
        {"tokenizer": chat_tokenizer}, {"shift": 3.0, "use_dynamic_shifting": True},
        {"text_encoder": "Qwen3ForCausalLM", "tokenizer": "Qwen2Tokenizer"}, {"is_distilled": False}),
}
"""`base.type` → the published base of that family that the recipes are for."""
FROM_PUBLISHED = {"sd": "sd1", "sdxl": "sdxl"}
"""`base.type` → folder in dbrun/models/published, whose configs are those of the published base."""


def write_published_base(kind: str, folder: Path) -> None:
    """Write the folder of the published base of a family, which does not exist yet. kind: `base.type`."""
    if kind in FROM_PUBLISHED:
        shutil.copytree(PUBLISHED / FROM_PUBLISHED[kind], folder)
        for name in families()[kind].tokenizers:
            byte_tokenizer().save_pretrained(folder / name)
    else:
        _write_configs(PUBLISHED_BASES[kind], folder)
    for name in families()[kind].weight_components:
        _write_hollow_weights(kind, name, folder)


def _write_configs(base: PublishedBase, folder: Path) -> None:
    import diffusers
    import torch

    index: dict[str, Any] = {"_class_name": base.pipeline, "_diffusers_version": "0.36.0", **base.index}
    for name, config in base.configs.items():
        if "_class_name" in config:
            index[name] = ["diffusers", config["_class_name"]]
            settings = {key: value for key, value in config.items() if key != "_class_name"}
            # published configs have the defaults, too
            with torch.device("meta"):
                getattr(diffusers, config["_class_name"])(**settings).save_config(folder / name)
        else:
            (folder / name).mkdir(parents=True)
            (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, tokenizer in base.tokenizers.items():
        tokenizer().save_pretrained(folder / name)
    for name, class_name in base.classes.items():
        index[name] = ["transformers", class_name]
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, **base.scheduler}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler), encoding="utf-8")
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_hollow_weights(kind: str, name: str, folder: Path) -> None:
    """Write a safetensors file in 16 bits with the header of a component, and a hole where its weights would be."""
    header: dict[str, Any] = {}
    end = 0
    for key, tensor in families()[kind].empty_component(folder, name).state_dict().items():
        start, end = end, end + 2 * prod(tensor.shape)
        header[key] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
    with (folder / name / f"{stem}.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
