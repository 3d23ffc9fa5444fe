"""Family `sd3`, Stable Diffusion 3 and 3.5: a transformer on VAE latents, with two CLIP text encoders and a T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.models.base import Condition, Sampling, SamplingConditions
from dbrun.models.configs import silence_libraries, tokenizer_length
from dbrun.models.flow_matching import FlowFamily, FlowModel, transformer_presets
from dbrun.models.latents import stack_negatives, stack_prompts, tiny_vae
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.prompt_reading import NUM_MARKS, tokenize
from dbrun.models.sdxl import StableDiffusionXL
from dbrun.models.tiny_text import byte_tokenizer, letter_tokenizer, tiny_clip, tiny_t5

if TYPE_CHECKING:
    from torch import Tensor

# 3.5 medium attends to the picture twice in its first blocks, the second time in `attn2`
ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj",
             "attn.add_v_proj", "attn.to_add_out", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
MODULATION = ("norm1.linear", "norm1_context.linear")
AROUND_BLOCKS = ("context_embedder", "time_text_embed.*.linear_1", "time_text_embed.*.linear_2", "norm_out.linear",
                 "proj_out")
DENOISER_PRESETS = transformer_presets(ATTENTION, FEED_FORWARD, MODULATION, AROUND_BLOCKS)
# the layer that cuts the latents into patches is a convolution
PATCHES = ("pos_embed.proj",)
T5 = "text_encoder_3"
MAX_CLIP_TOKENS = 77
MAX_T5_TOKENS = 256
"""Tokens of every prompt for T5, padding and end mark included: as many as the pipeline reads by default."""


class StableDiffusion3Model(FlowModel):
    """Base of Stable Diffusion 3 or 3.5 in memory (Esser et al. 2024, arXiv:2403.03206)."""

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts as `StableDiffusion3Pipeline` does: `hidden` [L, D] of each, and `pooled` [P] of a CLIP.

        The lowest bits of a result depend on the batch size: encode prompts one by one where the result is cached.
        """
        place = self.family.text_encoders.index(text_encoder)
        tokenizer, encoder = self.component(self.family.tokenizers[place]), self.component(text_encoder)
        if text_encoder == T5:
            length = min(tokenizer.model_max_length, MAX_T5_TOKENS)
            (tokens,) = tokenize(tokenizer, prompts, length, chunks=1)
            # without a mask, as it was trained: the padding is read, too
            return [{"hidden": row} for row in encoder(tokens.input_ids.to(self.device))[0]]
        (tokens,) = tokenize(tokenizer, prompts, tokenizer.model_max_length, chunks=1)
        output = encoder(tokens.input_ids.to(self.device), output_hidden_states=True)
        pairs = zip(output.hidden_states[-2], output.text_embeds, strict=True)
        return [{"hidden": hidden, "pooled": pooled} for hidden, pooled in pairs]

    def join_outputs(self, prompt: str, outputs: Mapping[str, EncoderOutput]) -> Condition:
        """`hidden` [77 + L, D] and `pooled` [P1 + P2]: the CLIPs beside each other, then T5 below them."""
        import torch
        from torch.nn.functional import pad

        first, second, t5 = (outputs[name] for name in self.family.text_encoders)
        clips = torch.cat([first["hidden"], second["hidden"]], dim=-1)
        # zeros up to T5's width, as in training: the transformer reads all tokens as one sequence
        wide = pad(clips, (0, t5["hidden"].shape[-1] - clips.shape[-1]))
        return {"hidden": torch.cat([wide, t5["hidden"]]), "pooled": torch.cat([first["pooled"], second["pooled"]])}

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of noise - x0, [B, C, h, w], for x_t of the same shape. condition: `hidden` and `pooled`."""
        device, dtype = self.device, self.dtype
        # it takes the noise level in thousandths, and cuts the latents into patches itself
        prediction: Tensor = self.denoiser(
            x_t.to(device, dtype), encoder_hidden_states=condition["hidden"].to(device, dtype),
            pooled_projections=condition["pooled"].to(device, dtype), timestep=1000.0 * self.sigma(t)).sample
        return prediction

    def prompt_arguments(self, conditions: Sequence[SamplingConditions]) -> dict[str, Any]:
        """The pipeline's arguments: `hidden` [B, L, D] and `pooled` [B, P] of prompts and negative prompts."""
        return {**super().prompt_arguments(conditions),
                "pooled_prompt_embeds": stack_prompts(conditions, "pooled"),
                "negative_pooled_prompt_embeds": stack_negatives(conditions, "pooled")}


class StableDiffusion3(FlowFamily):
    """Stable Diffusion 3 medium, 3.5 medium and 3.5 large, and their fine-tunes."""

    NAME: ClassVar[str] = "sd3"
    model: ClassVar[type[PipelineModel]] = StableDiffusion3Model
    pipeline_classes: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    subfolders: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "text_encoder_2", T5, "tokenizer",
                                             "tokenizer_2", "tokenizer_3", "transformer", "vae")
    components: ClassVar[Mapping[str, str]] = {
        "denoiser": "transformer", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"}
    not_adaptable: ClassVar[Mapping[str, str]] = {
        "trigger": "a T5 reads the prompt beside its CLIPs, and no program loads a new word into that"}
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2", "tokenizer_3")
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", T5)
    left_out: ClassVar[tuple[str, ...]] = ("image_encoder", "feature_extractor")
    no_kohya_reason: ClassVar[str | None] = (
        f"{FlowFamily.no_kohya_reason}; ComfyUI reads the file of `diffusers` as well")
    comfyui_usage: ClassVar[str | None] = (
        "In ComfyUI: put the same file into `models/loras/`, and choose it in a node `Load LoRA` between checkpoint "
        "and sampler.")
    # model_lora_keys_clip of comfy/lora.py @9c0cf36c
    comfyui_unread: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text_encoder": ("text_projection",), "text_encoder_2": ("text_projection",)}
    clip_skip_reason: ClassVar[str | None] = (
        "always reads the last but one layer of its CLIPs, which other programs call clip skip 2")
    component_docs: ClassVar[Mapping[str, str]] = {
        **FlowFamily.component_docs, "text_encoder": StableDiffusionXL.component_docs["text_encoder"],
        "text_encoder_2": StableDiffusionXL.component_docs["text_encoder_2"]}
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": {**DENOISER_PRESETS, "all": DENOISER_PRESETS["linear"] + PATCHES},
        # both CLIPs are of the kind that has a projection, as the second one of SDXL
        "text_encoder": StableDiffusionXL.target_presets["text_encoder_2"],
        "text_encoder_2": StableDiffusionXL.target_presets["text_encoder_2"]}
    default_sampling: ClassVar[Sampling] = Sampling(steps=28, guidance=4.5)
    # float32: 2 × 16 channels for each 8×8 pixels, or 4×4 in a small VAE; 333 vectors of 4,096 numbers, 2,048 pooled
    encoded_bytes_per_pixel: ClassVar[float] = 8.0
    encoded_bytes_per_prompt: ClassVar[int] = 5_500_000
    # whole names: `text_projection` lies outside of `text_model`
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {
        **FlowFamily.diffusers_prefixes, "text_encoder": ("", "text_encoder."),
        "text_encoder_2": ("", "text_encoder_2.")}

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """255 tokens of T5, which has one mark; 75 of the CLIPs, which both read as many as the first."""
        clip = tokenizer_length(folder, "tokenizer", MAX_CLIP_TOKENS)
        t5 = tokenizer_length(folder, "tokenizer_3", MAX_T5_TOKENS)
        return (PromptLimit("tokenizer_3", t5 - 1, "T5"),
                PromptLimit("tokenizer", clip - NUM_MARKS, "CLIP", rest_is_read=True))

    def distillation_warning(self, folder: Path | None, path: str) -> str | None:
        """Warning for 3.5 large turbo, and others of this name: nothing in their configs differs."""
        name = path.lower()
        if "turbo" not in name:
            return None
        size = "medium" if "medium" in name else "large"
        return ("is a turbo version, distilled to draw in 4 steps: training undoes that; train "
                f"stabilityai/stable-diffusion-3.5-{size}, the base that it was distilled from")

    def write_tiny_base(self, folder: Path, *, prediction: str = "flow") -> None:
        """Write a base of 0.1 M parameters for 32-pixel pictures: VAE factor 4, prompts of 77 and of 96 tokens.

        The CLIPs have unequal widths, so that no mix-up of the two goes unseen.
        """
        silence_libraries()
        import torch
        from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

        # the second pads by another token than the end mark, as published
        tokenizer, tokenizer_2, tokenizer_3 = byte_tokenizer(), byte_tokenizer(pad_token="!"), letter_tokenizer(96)
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            transformer = SD3Transformer2DModel(
                sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
                num_attention_heads=4, joint_attention_dim=24, caption_projection_dim=32, pooled_projection_dim=28,
                pos_embed_max_size=24, dual_attention_layers=(0,), qk_norm="rms_norm")
            vae = tiny_vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
            text_encoder = tiny_clip(tokenizer, width=8, projection=16)
            text_encoder_2 = tiny_clip(tokenizer_2, width=12, projection=12)
            text_encoder_3 = tiny_t5(len(tokenizer_3))
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        StableDiffusion3Pipeline(transformer, scheduler, vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2,
                                 text_encoder_3, tokenizer_3).save_pretrained(folder)
