"""Family `qwen_image`, Qwen-Image: a transformer on packed latents; Qwen2.5-VL reads the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.models.base import Condition, Sampling, SamplingConditions
from dbrun.models.chat_prompts import ChatTokens
from dbrun.models.configs import silence_libraries
from dbrun.models.flow_matching import transformer_presets
from dbrun.models.flux import ATTENTION, pack, unpack
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.qwen_latents import (
    MAX_TOKENS,
    START_TOKENS,
    TEMPLATE_END,
    TEMPLATE_START,
    QwenLatentFamily,
    QwenLatentModel,
    template_tokenizer,
    tiny_qwen_vae,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

FEED_FORWARD = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
MODULATION = ("img_mod.1", "txt_mod.1")
AROUND_BLOCKS = ("img_in", "txt_in", "time_text_embed.*.linear_1", "time_text_embed.*.linear_2", "norm_out.linear",
                 "proj_out")
DISTILLED_NAMES = ("lightning", "turbo", "distill")
"""Words in the names of checkpoints that draw in 4 to 15 steps; their configs say nothing of it."""


class QwenImageModel(QwenLatentModel):
    """Base of Qwen-Image in memory (Qwen Team 2025, arXiv:2508.02324)."""

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts as `QwenImagePipeline` does: `hidden` [L, D], the last state of the language model.

        The lowest bits of a result depend on the batch size: encode prompts one by one where the result is cached.
        """
        import torch

        texts = [f"{TEMPLATE_START}{prompt}{TEMPLATE_END}" for prompt in prompts]
        encoded = self.component("tokenizer")(texts, padding=True, max_length=START_TOKENS + MAX_TOKENS,
                                              truncation=True)
        tokens = ChatTokens(encoded["input_ids"], encoded["attention_mask"])
        ids, mask = (torch.tensor(rows, device=self.device) for rows in tokens)
        # the language model without its last layer, whose output, a number for each of 150,000 words, nothing reads
        states = self.component(text_encoder).model(input_ids=ids, attention_mask=mask,
                                                      use_cache=False).last_hidden_state
        return [{"hidden": states[row, tokens.positions(row)[START_TOKENS:]]} for row in range(len(prompts))]

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of noise - x0, [B, C, h, w], for x_t of the same shape.

        condition: `hidden` [B, L, D], with a `mask` [B, L] where it is padded.
        """
        device, dtype = self.device, self.dtype
        rows, _, height, width = x_t.shape
        mask = condition.get("mask")
        output = self.denoiser(
            pack(x_t.to(device, dtype)), encoder_hidden_states=condition["hidden"].to(device, dtype),
            encoder_hidden_states_mask=None if mask is None else mask.to(device), timestep=self.sigma(t),
            img_shapes=[[(1, height // 2, width // 2)]] * rows).sample
        return unpack(output, height, width)

    def _draw(self, pipeline: Any, conditions: Sequence[SamplingConditions], **settings: Any) -> list[Image]:
        # what it calls guidance is an input of the denoiser, which no published base has
        guidance = settings.pop("guidance_scale")
        return super()._draw(pipeline, conditions, true_cfg_scale=guidance, max_sequence_length=MAX_TOKENS, **settings)


class QwenImage(QwenLatentFamily):
    """Qwen-Image, Qwen-Image-2512, and their fine-tunes."""

    NAME: ClassVar[str] = "qwen_image"
    model: ClassVar[type[PipelineModel]] = QwenImageModel
    pipeline_classes: ClassVar[tuple[str, ...]] = ("QwenImagePipeline",)
    refused_pipelines: ClassVar[Mapping[str, str]] = {
        "QwenImageEditPipeline": "a base for editing: it changes a picture that it is given",
        "QwenImageEditPlusPipeline": "a base for editing: it changes pictures that it is given",
        "QwenImageLayeredPipeline": "a base that takes a picture apart into layers",
        "QwenImage21Pipeline": "Qwen-Image 2.1, another transformer with another text encoder"}
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": transformer_presets(ATTENTION, FEED_FORWARD, MODULATION, AROUND_BLOCKS)}
    comfyui_usage: ClassVar[str | None] = (
        "In ComfyUI: put the same file into `models/loras/`, and choose it in a node `Load LoRA` behind the one that "
        "loads Qwen-Image.")
    guidance_arguments: ClassVar[str] = 'negative_prompt="", true_cfg_scale={:g}'
    default_sampling: ClassVar[Sampling] = Sampling(steps=50, guidance=4.0)
    # float32: 2 × 16 channels for each 8×8 pixels, or 4×4 in a small VAE; 512 vectors of 3,584 numbers
    encoded_bytes_per_pixel: ClassVar[float] = 8.0
    encoded_bytes_per_prompt: ClassVar[int] = 7_400_000

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """512 tokens of Qwen2.5-VL, the template not counted: the end of it is cut off first."""
        return (PromptLimit("tokenizer", MAX_TOKENS, "Qwen2.5-VL"),)

    def distillation_warning(self, folder: Path | None, path: str) -> str | None:
        """Warning for a checkpoint that a distillation was merged into, by its name."""
        name = Path(path).name.lower()
        if not any(word in name for word in DISTILLED_NAMES):
            return None
        return ("is distilled to few steps, by its name: training undoes that; train Qwen/Qwen-Image-2512 or "
                "Qwen/Qwen-Image")

    def write_tiny_base(self, folder: Path, *, prediction: str = "flow") -> None:
        """Write a base of 0.3 M parameters for 32-pixel pictures: VAE factor 4, 2 blocks."""
        silence_libraries()
        import torch
        from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        tokenizer = template_tokenizer()
        config = Qwen2_5_VLConfig(
            text_config={"vocab_size": len(tokenizer), "hidden_size": 24, "intermediate_size": 32,
                         "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1,
                         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}},
            vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                           "out_hidden_size": 24, "fullatt_block_indexes": [0]})
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            transformer = QwenImageTransformer2DModel(
                in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=24, axes_dims_rope=(4, 6, 6))
            vae = tiny_qwen_vae()
            text_encoder = Qwen2_5_VLForConditionalGeneration(config)
        scheduler = FlowMatchEulerDiscreteScheduler(
            base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02, use_dynamic_shifting=True)
        QwenImagePipeline(scheduler, vae, text_encoder, tokenizer, transformer).save_pretrained(folder)
