"""Family `flux2_klein`, FLUX.2 klein: a transformer on patches of normalised latents; Qwen3 reads the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.models.base import CleanBatch, Condition, Randn, Sampling
from dbrun.models.chat_prompts import ChatFamily, tokenize_chat
from dbrun.models.configs import downsampling_factor, read_config, silence_libraries
from dbrun.models.flow_matching import FlowModel, transformer_presets
from dbrun.models.flux import ATTENTION as DOUBLE_BLOCKS
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.tiny_text import chat_tokenizer, tiny_qwen3

if TYPE_CHECKING:
    from torch import Tensor

# a single block has its attention and its feed-forward layers in one input and one output layer, which are most of
# the model: `attention` without them would leave them out, as scripts do that list only to_q, to_k, to_v and to_out.0
SINGLE_BLOCKS = ("single_transformer_blocks.*.attn.to_qkv_mlp_proj", "single_transformer_blocks.*.attn.to_out")
ATTENTION = (*DOUBLE_BLOCKS, *SINGLE_BLOCKS)
FEED_FORWARD = ("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out")
# all blocks of a kind share one layer of modulation
MODULATION = ("double_stream_modulation_img.linear", "double_stream_modulation_txt.linear",
              "single_stream_modulation.linear")
AROUND_BLOCKS = ("x_embedder", "context_embedder", "time_guidance_embed.*.linear_1", "time_guidance_embed.*.linear_2",
                 "norm_out.linear", "proj_out")
PATCH = 2
"""Side of a patch in pixels of the VAE's latents; its numbers are the channels of one pixel of x0."""
TEXT_LAYERS = (9, 18, 27)
"""Layers of Qwen3 after which its state is read."""


class Flux2KleinModel(FlowModel):
    """Base of FLUX.2 klein in memory (Black Forest Labs 2026)."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] to x0 itself, float32 [B, 4C, h, w]: the base was trained on the VAE's mean."""
        vae = self.component("vae")
        mean: Tensor = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode()
        return self.normalise(mean.float())

    def sample_x0(self, stored: Tensor, randn: Randn, class_labels: str) -> CleanBatch:
        """x0 as it was stored, [B, C, h, w]: nothing is drawn."""
        return CleanBatch(stored, {})

    def normalise(self, z: Tensor) -> Tensor:
        """Patches of the VAE's latents, normalised: z [B, C, 2h, 2w] to [B, 4C, h, w]."""
        from torch.nn.functional import pixel_unshuffle

        mean, std = self._statistics()
        return (pixel_unshuffle(z, PATCH) - mean) / std

    def denormalise(self, x0: Tensor) -> Tensor:
        """The inverse of `normalise`: x0 [B, 4C, h, w] to the VAE's latents [B, C, 2h, 2w]."""
        from torch.nn.functional import pixel_shuffle

        mean, std = self._statistics()
        return pixel_shuffle(x0 * std + mean, PATCH)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of a patch, float32 [4C, 1, 1]: those of the VAE's batch norm."""
        vae = self.component("vae")
        variance = vae.bn.running_var.float() + vae.config.batch_norm_eps
        return vae.bn.running_mean.float()[:, None, None], variance.sqrt()[:, None, None]

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts as `Flux2KleinPipeline` does: `hidden` [L, 3D], three layers of Qwen3 beside each other.

        The lowest bits of a result depend on the batch size: encode prompts one by one where the result is cached.
        """
        import torch

        tokens = tokenize_chat(self.component("tokenizer"), prompts, thinking=False)
        ids, mask = (torch.tensor(rows, device=self.device) for rows in tokens)
        # the language model without its last layer, whose output, a number for each of 150,000 words, nothing reads
        states = self.component(text_encoder).model(input_ids=ids, attention_mask=mask, use_cache=False,
                                                      output_hidden_states=True).hidden_states
        hidden = torch.cat([states[layer] for layer in TEXT_LAYERS], dim=-1)
        return [{"hidden": row} for row in hidden]

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of noise - x0, [B, 4C, h, w], for x_t of the same shape. condition: `hidden` [B, L, 3D]."""
        import torch

        from dbrun.diffusion.device_copy import one_to_device

        device, dtype = self.device, self.dtype
        height, width = x_t.shape[-2:]
        hidden = condition["hidden"].to(device, dtype)
        one = torch.arange(1)
        output: Tensor = self.denoiser(
            x_t.to(device, dtype).flatten(2).transpose(1, 2), encoder_hidden_states=hidden, timestep=self.sigma(t),
            # place of each token: (picture, row, column, word)
            img_ids=one_to_device(torch.cartesian_prod(one, torch.arange(height), torch.arange(width), one), device),
            txt_ids=one_to_device(torch.cartesian_prod(one, one, one, torch.arange(hidden.shape[1])), device)).sample
        return output.transpose(1, 2).reshape(len(x_t), -1, height, width)


class Flux2Klein(ChatFamily):
    """FLUX.2 klein of 4 B and 9 B parameters, and their fine-tunes."""

    NAME: ClassVar[str] = "flux2_klein"
    model: ClassVar[type[PipelineModel]] = Flux2KleinModel
    pipeline_classes: ClassVar[tuple[str, ...]] = ("Flux2KleinPipeline",)
    refused_pipelines: ClassVar[Mapping[str, str]] = {
        "Flux2Pipeline": "FLUX.2 dev, whose text encoder, a Mistral 3, is not read here",
        "Flux2KleinKVPipeline": "a base for editing: it changes pictures that it is given"}
    patch: ClassVar[int] = 1
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": transformer_presets(ATTENTION, FEED_FORWARD, MODULATION, AROUND_BLOCKS)}
    diffusers_marks: ClassVar[tuple[str, ...]] = ("lora", "lokr")
    comfyui_usage: ClassVar[str | None] = (
        "In ComfyUI: put the same file into `models/loras/`, and choose it in a node `Load LoRA` behind the one that "
        "loads FLUX.2 klein.")
    # comfy/utils.py @b3be02d6, flux_to_diffusers: it has FLUX.1's names for time and modulation alone
    comfyui_unread: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "denoiser": (*MODULATION, "time_guidance_embed.*.linear_1", "time_guidance_embed.*.linear_2")}
    default_sampling: ClassVar[Sampling] = Sampling(steps=50, guidance=4.0)
    # float32: 128 channels for each 16×16 pixels, or 8×8 in a small VAE; 512 vectors of 3 × 4,096 numbers for 9 B
    encoded_bytes_per_pixel: ClassVar[float] = 8.0
    encoded_bytes_per_prompt: ClassVar[int] = 25_200_000

    def resolution_multiple(self, folder: Path) -> int:
        """The VAE's downsampling factor times the side of a patch: 16 for the published models."""
        return downsampling_factor(folder / "vae") * PATCH

    def distillation_warning(self, folder: Path | None, path: str) -> str | None:
        """Warning for a base of 4 sampler steps: by its model_index.json, or by its name while it is not here."""
        name = path.lower()
        distilled = "flux.2-klein" in name and "base" not in name
        if folder is not None:
            distilled = bool(read_config(folder / "model_index.json").get("is_distilled"))
        if not distilled:
            return None
        size = "9B" if "9b" in name else "4B"
        return (f"is distilled to draw in 4 steps: training undoes that; train "
                f"black-forest-labs/FLUX.2-klein-base-{size}")

    def write_tiny_base(self, folder: Path, *, prediction: str = "flow") -> None:
        """Write a base of 0.2 M parameters for 32-pixel pictures: VAE factor 4, a text encoder of 28 narrow layers."""
        silence_libraries()
        import torch
        from diffusers import (
            AutoencoderKLFlux2,
            FlowMatchEulerDiscreteScheduler,
            Flux2KleinPipeline,
            Flux2Transformer2DModel,
        )
        from transformers import Qwen3ForCausalLM

        tokenizer = chat_tokenizer()
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            transformer = Flux2Transformer2DModel(
                in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=72, timestep_guidance_channels=32, guidance_embeds=False,
                axes_dims_rope=(4, 4, 4, 4))
            vae = AutoencoderKLFlux2(
                sample_size=32, block_out_channels=(8, 8, 16), norm_num_groups=4, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
            # as those of the published bases: no channel has mean 0 and variance 1
            vae.bn.running_mean.normal_(0.0, 0.1)
            vae.bn.running_var.uniform_(0.5, 2.0)
            text_encoder = Qwen3ForCausalLM(tiny_qwen3(len(tokenizer), layers=max(TEXT_LAYERS) + 1))
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        Flux2KleinPipeline(scheduler, vae, text_encoder, tokenizer, transformer).save_pretrained(folder)
