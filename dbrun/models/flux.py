"""Family `flux`, FLUX.1 dev and Krea: a transformer on packed latents, with a CLIP and a T5 text encoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.models.base import Condition, Sampling, SamplingConditions
from dbrun.models.configs import silence_libraries, tokenizer_length
from dbrun.models.file_names import JoinedLayer
from dbrun.models.flow_matching import FlowFamily, FlowModel, transformer_presets
from dbrun.models.flux_layers import joined_layers
from dbrun.models.latents import stack_prompts, tiny_vae
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.prompt_reading import NUM_MARKS
from dbrun.models.sd import TEXT_ATTENTION, TEXT_FEED_FORWARD, StableDiffusion
from dbrun.models.tiny_text import byte_tokenizer, letter_tokenizer, tiny_clip, tiny_t5

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj",
             "attn.add_v_proj", "attn.to_add_out")
# the output layer of a single block serves its attention and its feed-forward layers at once
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
                "single_transformer_blocks.*.proj_mlp", "single_transformer_blocks.*.proj_out")
MODULATION = ("norm1.linear", "norm1_context.linear", "single_transformer_blocks.*.norm.linear")
AROUND_BLOCKS = ("x_embedder", "context_embedder", "time_text_embed.*.linear_1", "time_text_embed.*.linear_2",
                 "norm_out.linear", "proj_out")
MAX_CLIP_TOKENS = 77
MAX_T5_TOKENS = 512
"""Tokens of every prompt for T5, padding and end mark included: the longest that the pipeline reads."""


class FluxModel(FlowModel):
    """Base of FLUX.1 in memory (Black Forest Labs 2024)."""

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts as `FluxPipeline` does: CLIP gives `pooled` [P] of each, and T5 `hidden` [L, D].

        The lowest bits of a result depend on the batch size: encode prompts one by one where the result is cached.
        """
        if text_encoder == "text_encoder":
            return [{"pooled": row} for row in self._read_clip(prompts)]
        return [{"hidden": row} for row in self._read_t5(prompts)]

    def _read_clip(self, prompts: Sequence[str]) -> Tensor:
        """Pooled state of CLIP at the end mark, [B, P]."""
        tokenizer, text_encoder = self.component("tokenizer"), self.component("text_encoder")
        tokens = tokenizer(list(prompts), padding="max_length", max_length=tokenizer.model_max_length,
                           truncation=True, return_tensors="pt")
        pooled: Tensor = text_encoder(tokens.input_ids.to(self.device)).pooler_output
        return pooled

    def _read_t5(self, prompts: Sequence[str]) -> Tensor:
        """Last state of T5, [B, L, D], the padding included: FLUX.1 was trained without a mask."""
        tokenizer, text_encoder = self.component("tokenizer_2"), self.component("text_encoder_2")
        length = min(tokenizer.model_max_length, MAX_T5_TOKENS)
        tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True,
                           return_tensors="pt")
        hidden: Tensor = text_encoder(tokens.input_ids.to(self.device))[0]
        return hidden

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of noise - x0, [B, C, h, w], for x_t of the same shape. condition: `hidden` and `pooled`."""
        import torch

        from dbrun.diffusion.device_copy import one_to_device

        device, dtype = self.device, self.dtype
        height, width = x_t.shape[-2:]
        hidden = condition["hidden"].to(device, dtype)
        guidance = None
        if self._takes_guidance:
            guidance = torch.full((len(x_t),), self.guidance, device=device)
        output = self.denoiser(
            pack(x_t.to(device, dtype)), encoder_hidden_states=hidden,
            pooled_projections=condition["pooled"].to(device, dtype), timestep=self.sigma(t), guidance=guidance,
            # in 32 bits: bfloat16 has no 257
            img_ids=one_to_device(position_ids(height // 2, width // 2), device),
            txt_ids=torch.zeros(hidden.shape[1], 3, device=device)).sample
        return unpack(output, height, width)

    @cached_property
    def _takes_guidance(self) -> bool:
        # read once: every step asks
        return self.family.takes_guidance(self.folder)

    def prompt_arguments(self, conditions: Sequence[SamplingConditions]) -> dict[str, Any]:
        """The pipeline's arguments: `hidden` [B, L, D] and `pooled` [B, P] of prompts; none of negative prompts."""
        return {"prompt_embeds": stack_prompts(conditions, "hidden"),
                "pooled_prompt_embeds": stack_prompts(conditions, "pooled")}


class Flux(FlowFamily):
    """FLUX.1 dev, and its fine-tunes such as Krea."""

    NAME: ClassVar[str] = "flux"
    model: ClassVar[type[PipelineModel]] = FluxModel
    pipeline_classes: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    refused_pipelines: ClassVar[Mapping[str, str]] = {
        "FluxFillPipeline": "a base for inpainting: it fills a masked part of a picture",
        "FluxKontextPipeline": "a base for editing: it changes a picture that it is given"}
    subfolders: ClassVar[tuple[str, ...]] = (
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae")
    components: ClassVar[Mapping[str, str]] = {"denoiser": "transformer", "text_encoder": "text_encoder"}
    not_adaptable: ClassVar[Mapping[str, str]] = {
        "text_encoder_2": "its second text encoder is a T5, for which diffusers loads no adapter",
        "trigger": "its T5 reads the prompt, and no program loads a new word into that"}
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    left_out: ClassVar[tuple[str, ...]] = ("image_encoder", "feature_extractor")
    embeds_guidance: ClassVar[bool] = True
    kohya_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {
        "denoiser": ("", "lora_unet_"), "text_encoder": ("text_model.", "lora_te1_text_model_")}
    # OneTrainer has the names of diffusers there
    other_kohya_prefixes: ClassVar[Mapping[str, str]] = {"lora_transformer_": "lora_unet_"}
    kohya_joined_components: ClassVar[tuple[str, ...]] = ("denoiser",)
    comfyui_usage: ClassVar[str | None] = (
        "In ComfyUI: put the same file into `models/loras/`, and choose it in a node `Load LoRA` behind the one that "
        "loads FLUX.1. A node `FluxGuidance` sets the guidance, and the sampler's `cfg` stays 1.")
    clip_skip_reason: ClassVar[str | None] = "takes only the pooled state of its CLIP"
    component_docs: ClassVar[Mapping[str, str]] = {
        **FlowFamily.component_docs, "text_encoder": StableDiffusion.component_docs["text_encoder"]}
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": transformer_presets(ATTENTION, FEED_FORWARD, MODULATION, AROUND_BLOCKS),
        "text_encoder": {"attention": TEXT_ATTENTION, "attention+ff": TEXT_ATTENTION + TEXT_FEED_FORWARD,
                         "linear": TEXT_ATTENTION + TEXT_FEED_FORWARD},
    }
    default_sampling: ClassVar[Sampling] = Sampling(steps=28, guidance=3.5)
    # float32: 2 × 16 channels for each 8×8 pixels, or 4×4 in a small VAE; 512 vectors of 4,096 numbers, 768 pooled
    encoded_bytes_per_pixel: ClassVar[float] = 8.0
    encoded_bytes_per_prompt: ClassVar[int] = 8_500_000
    # as for Stable Diffusion: other readers of the files still expect `text_model.`
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {
        **FlowFamily.diffusers_prefixes, "text_encoder": StableDiffusion.diffusers_prefixes["text_encoder"]}

    def joined_layers(self, component: str, names: Collection[str]) -> Mapping[str, JoinedLayer]:
        """The transformer's layers by the names of Black Forest Labs, which kohya's trainers and ComfyUI use."""
        return joined_layers(names)

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """511 tokens of T5, which has one mark; 75 of CLIP, of which only the pooled state is used."""
        clip = tokenizer_length(folder, "tokenizer", MAX_CLIP_TOKENS)
        t5 = tokenizer_length(folder, "tokenizer_2", MAX_T5_TOKENS)
        return (PromptLimit("tokenizer_2", t5 - 1, "T5"),
                PromptLimit("tokenizer", clip - NUM_MARKS, "CLIP, which only sums up the prompt,", rest_is_read=True))

    def distillation_warning(self, folder: Path | None, path: str) -> str | None:
        """Warning for FLUX.1 schnell: by its configs, or by its name while it is not here."""
        distilled = "schnell" in path.lower()
        if folder is not None:
            fixed_shift = not self.scheduler_config(folder).get("use_dynamic_shifting")
            distilled = fixed_shift and not self.takes_guidance(folder)
        if not distilled:
            return None
        return ("is FLUX.1 schnell, distilled to draw in 4 steps: training undoes that; train "
                "black-forest-labs/FLUX.1-dev")

    def write_tiny_base(self, folder: Path, *, prediction: str = "flow") -> None:
        """Write a base of 0.1 M parameters for 32-pixel pictures: VAE factor 4, prompts of 96 letters."""
        silence_libraries()
        import torch
        from diffusers import (
            FlowMatchEulerDiscreteScheduler,
            FluxPipeline,
            FluxTransformer2DModel,
        )

        tokenizer, tokenizer_2 = byte_tokenizer(), letter_tokenizer(96)
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            transformer = FluxTransformer2DModel(
                in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=24, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6))
            vae = tiny_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
            text_encoder, text_encoder_2 = tiny_clip(tokenizer, width=32), tiny_t5(len(tokenizer_2))
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        FluxPipeline(scheduler, vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2,
                     transformer).save_pretrained(folder)


def pack(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] as one token for each 2 × 2 patch, [B, h/2 · w/2, 4C]."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, height // 2 * (width // 2), 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`: tokens [B, h/2 · w/2, 4C] to [B, C, h, w]; height, width: h and w."""
    rows, _, features = tokens.shape
    patches = tokens.reshape(rows, height // 2, width // 2, features // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(rows, features // 4, height, width)


def position_ids(height: int, width: int) -> Tensor:
    """Position of each token of a picture of height × width patches: float32 [height · width, 3], (0, row, column)."""
    import torch

    rows, columns = torch.arange(height), torch.arange(width)
    return torch.cartesian_prod(torch.zeros(1), rows.float(), columns.float())
