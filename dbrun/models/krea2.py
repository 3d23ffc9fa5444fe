"""Family `krea2`, Krea 2: one stream of text and picture tokens; a dozen layers of Qwen3-VL read the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.models.base import Condition, Sampling, SamplingConditions
from dbrun.models.chat_prompts import ChatTokens
from dbrun.models.configs import read_config, silence_libraries
from dbrun.models.flow_matching import transformer_presets
from dbrun.models.flux import pack, position_ids, unpack
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.qwen_latents import (
    END_TOKENS,
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
    from torch import Tensor

# the main blocks alone: those of `text_fusion` see the prompt, and never the picture
ATTENTION = tuple(f"transformer_blocks.*.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_gate", "to_out.0"))
FEED_FORWARD = tuple(f"transformer_blocks.*.ff.{name}" for name in ("gate", "up", "down"))
# all blocks share one layer of modulation
MODULATION = ("time_mod_proj",)
AROUND_BLOCKS = ("text_fusion.*.attn.*", "text_fusion.*.ff.*", "text_fusion.projector", "img_in", "txt_in.linear_1",
                 "txt_in.linear_2", "time_embed.linear_1", "time_embed.linear_2", "final_layer.linear")


class Krea2Model(QwenLatentModel):
    """Base of Krea 2 in memory (Krea 2026)."""

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts as `Krea2Pipeline` does: `hidden` [L, layers, D], the states of some layers of Qwen3-VL.

        The padding is left out: the transformer masks it, and gives text no positions. The lowest bits of a result
        depend on the batch size: encode prompts one by one where the result is cached.
        """
        import torch

        tokens = self._tokenize(prompts)
        ids, mask = (torch.tensor(rows, device=self.device) for rows in tokens)
        # as it was trained: the padding between prompt and template takes no position
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        states = self.component(text_encoder)(
            input_ids=ids, attention_mask=mask.bool(), position_ids=positions.expand(3, -1, -1), use_cache=False,
            output_hidden_states=True).hidden_states
        layers = torch.stack([states[layer] for layer in self._pipeline.config.text_encoder_select_layers], dim=2)
        return [{"hidden": layers[row, tokens.positions(row)[START_TOKENS:]]} for row in range(len(prompts))]

    def _tokenize(self, prompts: Sequence[str]) -> ChatTokens:
        """Tokens of prompts in the template, padded between the prompt and the end of the template."""
        tokenizer = self.component("tokenizer")
        starts = tokenizer([TEMPLATE_START + prompt for prompt in prompts], padding="max_length", truncation=True,
                           max_length=START_TOKENS + MAX_TOKENS - END_TOKENS)
        end = tokenizer(TEMPLATE_END)["input_ids"]
        ids = [row + end for row in starts["input_ids"]]
        mask = [row + [1] * len(end) for row in starts["attention_mask"]]
        return ChatTokens(ids, mask)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of noise - x0, [B, C, h, w], for x_t of the same shape.

        condition: `hidden` [B, L, layers, D], with a `mask` [B, L] where it is padded.
        """
        import torch

        from dbrun.diffusion.device_copy import one_to_device

        device, dtype = self.device, self.dtype
        height, width = x_t.shape[-2:]
        hidden = condition["hidden"].to(device, dtype)
        mask = condition.get("mask")
        # the words stand at the origin; in 32 bits: bfloat16 has no 257
        places = torch.cat([torch.zeros(hidden.shape[1], 3), position_ids(height // 2, width // 2)])
        output = self.denoiser(
            pack(x_t.to(device, dtype)), encoder_hidden_states=hidden, timestep=self.sigma(t),
            position_ids=one_to_device(places, device),
            encoder_attention_mask=None if mask is None else mask.to(device)).sample
        return unpack(output, height, width)

    def prompt_arguments(self, conditions: Sequence[SamplingConditions]) -> dict[str, Any]:
        """The pipeline's arguments for one picture: prompt and negative prompt, each [1, L, layers, D], with masks."""
        import torch

        ((prompt, negative),) = conditions
        padded = self.collate_conditions([prompt, negative])
        hidden = padded["hidden"]
        mask = padded.get("mask", torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device))
        return {"prompt_embeds": hidden[:1], "prompt_embeds_mask": mask[:1], "negative_prompt_embeds": hidden[1:],
                "negative_prompt_embeds_mask": mask[1:]}


class Krea2(QwenLatentFamily):
    """Krea 2 Raw, and its fine-tunes."""

    NAME: ClassVar[str] = "krea2"
    model: ClassVar[type[PipelineModel]] = Krea2Model
    pipeline_classes: ClassVar[tuple[str, ...]] = ("Krea2Pipeline",)
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": transformer_presets(ATTENTION, FEED_FORWARD, MODULATION, AROUND_BLOCKS)}
    comfyui_usage: ClassVar[str | None] = (
        "In ComfyUI: put the same file into `models/loras/`, and choose it in a node `Load LoRA` behind the one that "
        "loads Krea 2. What was learnt on Krea 2 Raw is meant to be drawn with Krea 2 Turbo, in ComfyUI as in "
        "diffusers: 8 steps without guidance.")
    # as its pipeline counts: 0 is without guidance, so that 4.5 is 5.5 elsewhere
    default_sampling: ClassVar[Sampling] = Sampling(steps=28, guidance=4.5)
    # float32: 2 × 16 channels for each 8×8 pixels, or 4×4 in a small VAE; 512 times 12 vectors of 2,560 numbers
    encoded_bytes_per_pixel: ClassVar[float] = 8.0
    encoded_bytes_per_prompt: ClassVar[int] = 63_000_000

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """507 tokens of Qwen3-VL, the template not counted: its end is read whatever the prompt's length."""
        return (PromptLimit("tokenizer", MAX_TOKENS - END_TOKENS, "Qwen3-VL"),)

    def distillation_warning(self, folder: Path | None, path: str) -> str | None:
        """Warning for Krea 2 Turbo: by its model_index.json, or by its name while it is not here."""
        distilled = "turbo" in path.lower()
        if folder is not None:
            distilled = bool(read_config(folder / "model_index.json").get("is_distilled"))
        if not distilled:
            return None
        return ("is Krea 2 Turbo, distilled to draw in 8 steps: training undoes that; train krea/Krea-2-Raw, whose "
                "adapters its makers recommend to use on Turbo")

    def write_tiny_base(self, folder: Path, *, prediction: str = "flow") -> None:
        """Write a base of 0.3 M parameters for 32-pixel pictures: VAE factor 4, 2 blocks, 4 of 6 layers read."""
        silence_libraries()
        import torch
        from diffusers import FlowMatchEulerDiscreteScheduler, Krea2Pipeline, Krea2Transformer2DModel
        from transformers import Qwen3VLConfig, Qwen3VLModel

        tokenizer = template_tokenizer()
        config = Qwen3VLConfig(
            text_config={"vocab_size": len(tokenizer), "hidden_size": 24, "intermediate_size": 32,
                         "num_hidden_layers": 6, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8,
                         "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1]}},
            vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                           "out_hidden_size": 24, "num_position_embeddings": 4, "deepstack_visual_indexes": [0]})
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            transformer = Krea2Transformer2DModel(
                in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
                intermediate_size=48, timestep_embed_dim=32, text_hidden_dim=24, num_text_layers=4,
                text_num_attention_heads=3, text_num_key_value_heads=3, text_intermediate_size=32,
                num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 6, 6))
            vae, text_encoder = tiny_qwen_vae(), Qwen3VLModel(config)
        scheduler = FlowMatchEulerDiscreteScheduler(max_image_seq_len=6400, use_dynamic_shifting=True)
        Krea2Pipeline(scheduler, vae, text_encoder, tokenizer, transformer,
                      text_encoder_select_layers=(1, 2, 4, 5)).save_pretrained(folder)
