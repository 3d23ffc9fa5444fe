"""Family `chroma`, Chroma: FLUX.1's blocks without its modulation layers, and a T5 whose padding is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.models.base import Condition, Sampling, SamplingConditions
from dbrun.models.configs import silence_libraries, tokenizer_length
from dbrun.models.file_names import PROMPT_PLACEHOLDER
from dbrun.models.flow_matching import FlowFamily, FlowModel
from dbrun.models.flux import ATTENTION, FEED_FORWARD, MAX_T5_TOKENS, pack, position_ids, unpack
from dbrun.models.latents import tiny_vae
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.tiny_text import letter_tokenizer, tiny_t5

if TYPE_CHECKING:
    from torch import Tensor

# one small network, the `distilled_guidance_layer`, computes the modulation of all blocks
AROUND_BLOCKS = ("x_embedder", "context_embedder", "distilled_guidance_layer.in_proj",
                 "distilled_guidance_layer.layers.*.linear_1", "distilled_guidance_layer.layers.*.linear_2",
                 "distilled_guidance_layer.out_proj", "proj_out")


class ChromaModel(FlowModel):
    """Base of Chroma in memory (lodestones 2025)."""

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts to `hidden` [L, D], the last state of T5 at the words, the end mark and one place of padding.

        So Chroma was trained: its transformer reads one place of padding, and T5 none. The lowest bits of a result
        depend on the batch size: encode prompts one by one where the result is cached.
        """
        tokenizer = self.component("tokenizer")
        length = min(tokenizer.model_max_length, MAX_T5_TOKENS)
        tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True,
                           return_tensors="pt")
        hidden = self.component(text_encoder)(tokens.input_ids.to(self.device),
                                              attention_mask=tokens.attention_mask.to(self.device))[0]
        counts = tokens.attention_mask.sum(dim=1).tolist()
        return [{"hidden": row[:count + 1]} for row, count in zip(hidden, counts, strict=True)]

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of noise - x0, [B, C, h, w], for x_t of the same shape.

        condition: `hidden` [B, L, D], with a `mask` [B, L] where it is padded.
        """
        import torch

        hidden = condition["hidden"]
        if "mask" not in condition:
            return self._predict(x_t, t, hidden)
        # prompts of one length at a time, each without padding: under gradient checkpointing diffusers gives the single
        # blocks no mask, and no text has a position, so that leaving padding out is what masking it would be
        lengths = condition["mask"].sum(dim=1).tolist()
        prediction = torch.empty_like(x_t, device=self.device, dtype=self.dtype)
        for length in sorted(set(lengths)):
            rows = [row for row, own in enumerate(lengths) if own == length]
            prediction[rows] = self._predict(x_t[rows], t[rows], hidden[rows, :length])
        return prediction

    def _predict(self, x_t: Tensor, t: Tensor, hidden: Tensor) -> Tensor:
        """Prediction for prompts of one length: hidden [B, L, D], all of it read."""
        import torch

        from dbrun.diffusion.device_copy import one_to_device

        device, dtype = self.device, self.dtype
        height, width = x_t.shape[-2:]
        output = self.denoiser(
            pack(x_t.to(device, dtype)), encoder_hidden_states=hidden.to(device, dtype), timestep=self.sigma(t),
            # in 32 bits: bfloat16 has no 257
            img_ids=one_to_device(position_ids(height // 2, width // 2), device),
            txt_ids=torch.zeros(hidden.shape[1], 3, device=device)).sample
        return unpack(output, height, width)

    def prompt_arguments(self, conditions: Sequence[SamplingConditions]) -> dict[str, Any]:
        """The pipeline's arguments for encoded prompts, with masks by which all of `hidden` is read."""
        arguments = super().prompt_arguments(conditions)
        # boolean: the pipeline's own masks are numbers, which attention adds, so that it reads all the padding
        # (huggingface/diffusers issue 13619)
        return {**arguments, "prompt_attention_mask": _all_read(arguments["prompt_embeds"]),
                "negative_prompt_attention_mask": _all_read(arguments["negative_prompt_embeds"])}


class Chroma(FlowFamily):
    """Chroma1-HD, Chroma1-Base, and their fine-tunes."""

    NAME: ClassVar[str] = "chroma"
    model: ClassVar[type[PipelineModel]] = ChromaModel
    pipeline_classes: ClassVar[tuple[str, ...]] = ("ChromaPipeline",)
    subfolders: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    components: ClassVar[Mapping[str, str]] = {"denoiser": "transformer"}
    not_adaptable: ClassVar[Mapping[str, str]] = {
        "text_encoder": "its text encoder is a T5, for which diffusers loads no adapter",
        "trigger": "a T5 reads the prompt, and new words are trained in CLIP text encoders alone"}
    left_out: ClassVar[tuple[str, ...]] = ("image_encoder", "feature_extractor")
    no_kohya_reason: ClassVar[str | None] = (
        f"{FlowFamily.no_kohya_reason}; ComfyUI reads the file of `diffusers` as well")
    comfyui_usage: ClassVar[str | None] = (
        "In ComfyUI: put the same file into `models/loras/`, and choose it in a node `Load LoRA` behind the one that "
        "loads Chroma. The sampler's `cfg` is the guidance.")
    # flux_to_diffusers of comfy/utils.py @9c0cf36c knows FLUX.1's layers, and this network is Chroma's own
    comfyui_unread: ClassVar[Mapping[str, tuple[str, ...]]] = {"denoiser": ("distilled_guidance_layer.*",)}
    # as `prompt_arguments`: with masks that are truth values
    card_lines: ClassVar[tuple[str, ...]] = (
        f"embeds, _, mask, negative, _, negative_mask = pipeline.encode_prompt({PROMPT_PLACEHOLDER}, device=device)",
        "prompt = dict(prompt_embeds=embeds, prompt_attention_mask=mask.bool(),",
        "              negative_prompt_embeds=negative, negative_prompt_attention_mask=negative_mask.bool())")
    card_arguments: ClassVar[str] = "**prompt"
    # without `blocks`: they have no modulation layers of their own
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": {"attention": ATTENTION, "attention+ff": ATTENTION + FEED_FORWARD,
                     "linear": ATTENTION + FEED_FORWARD + AROUND_BLOCKS}}
    default_sampling: ClassVar[Sampling] = Sampling(steps=40, guidance=3.0)
    # float32: 2 × 16 channels for each 8×8 pixels, or 4×4 in a small VAE; 512 vectors of 4,096 numbers
    encoded_bytes_per_pixel: ClassVar[float] = 8.0
    encoded_bytes_per_prompt: ClassVar[int] = 8_500_000

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """511 tokens of T5, which has one mark."""
        return (PromptLimit("tokenizer", tokenizer_length(folder, "tokenizer", MAX_T5_TOKENS) - 1, "T5"),)

    def distillation_warning(self, folder: Path | None, path: str) -> str | None:
        """Warning for Chroma1-Flash, by its name: nothing in its configs differs."""
        if "flash" not in path.lower():
            return None
        return ("is Chroma1-Flash, tuned to draw in few steps without guidance: training undoes that; train "
                "lodestones/Chroma1-HD")

    def write_tiny_base(self, folder: Path, *, prediction: str = "flow") -> None:
        """Write a base of 0.1 M parameters for 32-pixel pictures: VAE factor 4, prompts of 96 letters."""
        silence_libraries()
        import torch
        from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

        tokenizer = letter_tokenizer(96)
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            transformer = ChromaTransformer2DModel(
                in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=24, axes_dims_rope=(4, 6, 6), approximator_num_channels=8,
                approximator_hidden_dim=32, approximator_layers=1)
            vae = tiny_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
            text_encoder = tiny_t5(len(tokenizer))
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        ChromaPipeline(scheduler, vae, text_encoder, tokenizer, transformer).save_pretrained(folder)


def _all_read(hidden: Tensor) -> Tensor:
    """Mask of a prompt without padding, bool [1, L]."""
    import torch

    return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
