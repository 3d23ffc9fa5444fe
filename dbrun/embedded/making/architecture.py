"""Networks and scheduler of the embedded base model, at full size and tiny for tests."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dbrun.embedded.making.brush import SIDE

# Stable Diffusion's factor of 8 would leave only 8×8 cells of a 64-pixel picture
LATENT_SIDE = SIDE // 4
LATENT_CHANNELS = 8
PATCH = 8
"""Side of a patch of the encoder in pixels: 64 patches; half of it would take four times as long."""


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of the networks. vae, unet: channels per block; groups: of the group norms; heads: of each attention.

    picture_width, picture_layers: of the encoder's picture tower.
    """

    vae: tuple[int, int, int] = (16, 32, 64)
    unet: tuple[int, int] = (64, 128)
    groups: int = 8
    text_width: int = 128
    text_layers: int = 2
    heads: int = 4
    picture_width: int = 128
    picture_layers: int = 4


FULL = ModelSizes()
TINY = ModelSizes(vae=(8, 8, 8), unet=(8, 16), groups=4, text_width=16, text_layers=1, heads=2,
                  picture_width=16, picture_layers=1)


def build_vae(sizes: ModelSizes) -> AutoencoderKL:
    """Autoencoder that halves the side twice: [B, 3, 64, 64] → [B, 8, 16, 16]. 0.6 M weights at full size."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=sizes.vae,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=sizes.groups,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )


def build_unet(sizes: ModelSizes) -> UNet2DConditionModel:
    """UNet on latents [B, 8, 16, 16], with cross-attention at 8×8 and in the middle only. 4 M weights at full size."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=sizes.unet,
        layers_per_block=1,
        cross_attention_dim=sizes.text_width,
        # despite its name, diffusers reads it as the number of heads
        attention_head_dim=sizes.heads,
        norm_num_groups=sizes.groups,
    )
    # for 64 positions on a CPU the backward pass of the fused attention is slower than the plain one
    unet.set_attn_processor(AttnProcessor())
    return unet


def build_text_encoder(sizes: ModelSizes, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP text encoder for the tokenizer's vocabulary. 0.4 M weights at full size."""
    return CLIPTextModel(_text_config(sizes, tokenizer))


def _text_config(sizes: ModelSizes, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.heads,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=sizes.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_clip(sizes: ModelSizes, tokenizer: CLIPTokenizer) -> CLIPModel:
    """CLIP for pictures of 64×64 and the tokenizer's texts. 1.4 M weights at full size."""
    # a step takes a fifth less time than with CLIP's own "quick_gelu"
    activation = {"hidden_act": "gelu"}
    config = CLIPConfig(
        text_config=_text_config(sizes, tokenizer).to_dict() | activation,
        vision_config=activation | {
            "hidden_size": sizes.picture_width,
            "intermediate_size": 4 * sizes.picture_width,
            "num_hidden_layers": sizes.picture_layers,
            "num_attention_heads": sizes.heads,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        projection_dim=sizes.text_width,
        # for 64 patches on a CPU the backward pass of the fused attention is slower than the plain one
        attn_implementation="eager",
    )
    return CLIPModel(config)


class Denoiser(nn.Module):
    """UNet and text encoder as one module, because they are trained together."""

    def __init__(self, sizes: ModelSizes, tokenizer: CLIPTokenizer) -> None:
        """Build both with fresh weights."""
        super().__init__()
        self.unet = build_unet(sizes)
        self.text_encoder = build_text_encoder(sizes, tokenizer)


def build_scheduler() -> DPMSolverMultistepScheduler:
    """Scheduler with Stable Diffusion's betas, v-prediction, and a solver that needs 8 to 12 steps."""
    return DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )
