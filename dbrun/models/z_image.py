"""Family `z_image`, Z-Image: one stream of text and picture tokens, with Qwen3 as its text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.models.base import Condition, Sampling, SamplingConditions
from dbrun.models.chat_prompts import ChatFamily, tokenize_chat
from dbrun.models.configs import silence_libraries
from dbrun.models.flow_matching import FlowModel, transformer_presets
from dbrun.models.latents import tiny_vae
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.tiny_text import chat_tokenizer, tiny_qwen3

if TYPE_CHECKING:
    from torch import Tensor

# the main layers alone: the refiners before them never see text and picture together
ATTENTION = tuple(f"layers.*.attention.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0"))
FEED_FORWARD = tuple(f"layers.*.feed_forward.{name}" for name in ("w1", "w2", "w3"))
MODULATION = ("layers.*.adaLN_modulation.0",)
AROUND_BLOCKS = ("*_refiner.*.attention.to_*", "*_refiner.*.feed_forward.w*", "noise_refiner.*.adaLN_modulation.0",
                 "t_embedder.mlp.*", "cap_embedder.*", "all_x_embedder.*", "all_final_layer.*.linear",
                 "all_final_layer.*.adaLN_modulation.1")
TURBO_SHIFT, BASE_SHIFT = 3.0, 6.0
"""Shift in the scheduler config of Z-Image-Turbo and of Z-Image: nothing else in their configs differs."""


class ZImageModel(FlowModel):
    """Base of Z-Image in memory (Z-Image Team 2025, arXiv:2511.22699)."""

    # as it was trained, and as diffusers' script trains it
    takes_mean: ClassVar[bool] = True

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts as `ZImagePipeline` does: `hidden` [L, D], the last layer but one of Qwen3, without padding.

        The lowest bits of a result depend on the batch size: encode prompts one by one where the result is cached.
        """
        import torch

        tokens = tokenize_chat(self.component("tokenizer"), prompts, thinking=True)
        ids, mask = (torch.tensor(rows, device=self.device) for rows in tokens)
        states = self.component(text_encoder)(input_ids=ids, attention_mask=mask.bool(), use_cache=False,
                                                output_hidden_states=True).hidden_states[-2]
        return [{"hidden": states[row, tokens.positions(row)]} for row in range(len(prompts))]

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of noise - x0, [B, C, h, w], for x_t of the same shape.

        condition: `hidden` [B, L, D], with a `mask` [B, L] where it is padded.
        """
        import torch

        # the transformer takes lists: a picture [C, frames, h, w] and a prompt [L, D] in each row
        pictures = list(x_t.to(self.device, self.dtype).unsqueeze(2))
        hidden = condition["hidden"].to(self.device, self.dtype)
        texts = list(hidden)
        if "mask" in condition:
            texts = [row[real] for row, real in zip(hidden, condition["mask"].to(self.device), strict=True)]
        # its time runs from noise at 0 to the picture at 1, and so does its speed: x0 - noise
        output = self.denoiser(pictures, 1.0 - self.sigma(t), texts).sample
        return -torch.stack(output).squeeze(2)

    def prompt_arguments(self, conditions: Sequence[SamplingConditions]) -> dict[str, Any]:
        """The pipeline's arguments for encoded prompts: `hidden` of each, whose lengths differ, in a list."""
        return {"prompt_embeds": [condition.prompt["hidden"] for condition in conditions],
                "negative_prompt_embeds": [condition.negative["hidden"] for condition in conditions]}


class ZImage(ChatFamily):
    """Z-Image, and its fine-tunes."""

    NAME: ClassVar[str] = "z_image"
    model: ClassVar[type[PipelineModel]] = ZImageModel
    pipeline_classes: ClassVar[tuple[str, ...]] = ("ZImagePipeline",)
    refused_pipelines: ClassVar[Mapping[str, str]] = {
        "ZImageOmniPipeline": "a base for editing, which also reads pictures"}
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": transformer_presets(ATTENTION, FEED_FORWARD, MODULATION, AROUND_BLOCKS)}
    diffusers_marks: ClassVar[tuple[str, ...]] = ("lora", "lokr")
    comfyui_usage: ClassVar[str | None] = (
        "In ComfyUI: put the same file into `models/loras/`, and choose it in a node `Load LoRA` behind the one that "
        "loads Z-Image.")
    default_sampling: ClassVar[Sampling] = Sampling(steps=28, guidance=4.0)
    # float32: 2 × 16 channels for each 8×8 pixels, or 4×4 in a small VAE; 512 vectors of 2,560 numbers
    encoded_bytes_per_pixel: ClassVar[float] = 8.0
    encoded_bytes_per_prompt: ClassVar[int] = 5_300_000

    def distillation_warning(self, folder: Path | None, path: str) -> str | None:
        """Warning for Z-Image-Turbo: by its name, or by its shift; not for De-Turbo, which is undistilled again."""
        name = path.lower()
        distilled = "turbo" in name
        if folder is not None:
            distilled = distilled or float(self.scheduler_config(folder).get("shift", BASE_SHIFT)) == TURBO_SHIFT
        if not distilled or "de-turbo" in name or "deturbo" in name:
            return None
        return ("is Z-Image-Turbo, distilled to draw in 8 steps: training undoes that; train Tongyi-MAI/Z-Image, the "
                "base that it was distilled from")

    def write_tiny_base(self, folder: Path, *, prediction: str = "flow") -> None:
        """Write a base of 0.4 M parameters for 32-pixel pictures: VAE factor 4, 2 layers and 1 of each refiner."""
        silence_libraries()
        import torch
        from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
        from transformers import Qwen3Model

        tokenizer = chat_tokenizer()
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            transformer = ZImageTransformer2DModel(
                in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
                axes_dims=(4, 6, 6), axes_lens=(1024, 32, 32))
            vae = tiny_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
            text_encoder = Qwen3Model(tiny_qwen3(len(tokenizer), layers=3))
        scheduler = FlowMatchEulerDiscreteScheduler(shift=BASE_SHIFT)
        ZImagePipeline(scheduler, vae, text_encoder, tokenizer, transformer).save_pretrained(folder)
