"""Stable Diffusion 1.x and 2.x: how is a latent UNet with one CLIP text encoder loaded, asked, and taught?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import RecipeError
from dbrun.families.base import Condition, Family, Loaded, Sampling

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from dbrun.diffusion.process import Process

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
TIME = ("time_emb_proj", "time_embedding.linear_1", "time_embedding.linear_2")
# proj_in and proj_out are convolutions in 1.x and linear in 2.x, so only `all` may name them
CONVOLUTIONS = ("proj_in", "proj_out", "resnets.*.conv1", "resnets.*.conv2", "conv_shortcut",
                "downsamplers.*.conv", "upsamplers.*.conv")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_FEED_FORWARD = ("mlp.fc1", "mlp.fc2")


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2021, arXiv:2112.10752)."""

    NAME: ClassVar[str] = "sd"
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    folders: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
    components: ClassVar[Mapping[str, str]] = {"denoiser": "unet", "text_encoder": "text_encoder"}
    presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": {"attention": ATTENTION, "attention+ff": ATTENTION + FEED_FORWARD,
                     "linear": ATTENTION + FEED_FORWARD + TIME,
                     "all": ATTENTION + FEED_FORWARD + TIME + CONVOLUTIONS},
        "text_encoder": {"attention": TEXT_ATTENTION, "attention+ff": TEXT_ATTENTION + TEXT_FEED_FORWARD,
                         "linear": TEXT_ATTENTION + TEXT_FEED_FORWARD, "all": TEXT_ATTENTION + TEXT_FEED_FORWARD},
    }
    sampling: ClassVar[Sampling] = Sampling(steps=25, guidance=7.5)

    def pixel_multiple(self, folder: Path) -> int:
        """The VAE's factor times the UNet's: 64 for the published models."""
        return _halvings(folder / "vae") * _halvings(folder / "unet")

    def prompt_limit(self, folder: Path) -> int:
        """The lesser of the tokenizer's length and the text encoder's positions: 77 for the published models."""
        positions = int(_config(folder / "text_encoder" / "config.json").get("max_position_embeddings", 77))
        return min(positions, int(_config(folder / "tokenizer" / "tokenizer_config.json")
                                  .get("model_max_length", positions)))

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype,
             variant: str | None = None) -> Loaded:
        """The pipeline, every part in dtype on device, without a safety checker."""
        _hush()
        from diffusers import StableDiffusionPipeline

        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                str(folder), dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True,
                safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False)
        except (OSError, ValueError) as error:
            raise RecipeError(f"{folder} cannot be loaded as a Stable Diffusion base: {error}",
                              fix="check `base.path` and `base.variant`; only safetensors files are read") from error
        if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
            raise RecipeError(f"the base's UNet takes {pipeline.unet.config.in_channels} channels and its VAE gives "
                              f"{pipeline.vae.config.latent_channels}: it is not a text-to-image base",
                              fix="choose a base that is not for inpainting")
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(device)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()
        return Loaded(pipeline, device, dtype)

    def module(self, loaded: Loaded, component: str) -> nn.Module:
        """The UNet or the text encoder."""
        module: nn.Module = getattr(loaded.pipeline, self.components[component])
        return module

    def process(self, loaded: Loaded) -> Process:
        """The scheduler's betas and prediction type."""
        from dbrun.diffusion.process import Process

        return Process.from_config(loaded.pipeline.scheduler.config)

    def encode_images(self, loaded: Loaded, pixels: Tensor) -> Tensor:
        """Mean and log-variance of q(z | pixels), float32 [B, 2C, h, w]."""
        pixels = pixels.to(loaded.device, loaded.dtype)
        moments: Tensor = loaded.pipeline.vae.encode(pixels).latent_dist.parameters
        return moments.float()

    def sample_latents(self, loaded: Loaded, moments: Tensor, noise: Tensor) -> Tensor:
        """x0 = (mean + std noise) * scaling_factor, with the log-variance clamped to [-30, 20] as diffusers does."""
        mean, log_variance = moments.chunk(2, dim=1)
        z = mean + (0.5 * log_variance.clamp(-30.0, 20.0)).exp() * noise
        return z * float(loaded.pipeline.vae.config.scaling_factor)

    def encode_prompts(self, loaded: Loaded, prompts: Sequence[str]) -> list[Condition]:
        """The text encoder's last hidden state, `hidden` [L, D], padded to the full length without a mask.

        A prompt's low bits depend on how many share the call: encode one at a time what is to be cached.
        """
        tokenizer, text_encoder = loaded.pipeline.tokenizer, loaded.pipeline.text_encoder
        length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True,
                           return_tensors="pt")
        masked = getattr(text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(loaded.device) if masked else None
        hidden = text_encoder(tokens.input_ids.to(loaded.device), attention_mask=mask)[0]
        return [{"hidden": row} for row in hidden]

    def collate(self, conditions: Sequence[Condition]) -> Condition:
        """`hidden` [B, L, D]."""
        import torch

        return {"hidden": torch.stack([c["hidden"] for c in conditions])}

    def predict(self, loaded: Loaded, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The UNet's prediction; where it returns twice the channels, the first half is the prediction."""
        unet, (device, dtype) = loaded.pipeline.unet, (loaded.device, loaded.dtype)
        pred: Tensor = unet(x_t.to(device, dtype), t.to(device),
                            encoder_hidden_states=condition["hidden"].to(device, dtype)).sample
        return pred.chunk(2, dim=1)[0] if pred.shape[1] == 2 * x_t.shape[1] else pred

    def generate(self, loaded: Loaded, prompt: str, *, seed: int, steps: int, guidance: float,
                 resolution: int) -> Image:
        """One picture by DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) on the base's own noise schedule."""
        import torch
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

        own = loaded.pipeline
        solver = DPMSolverMultistepScheduler.from_config(own.scheduler.config)
        pipeline = StableDiffusionPipeline(**{**own.components, "scheduler": solver}, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad():
            image: Image = pipeline(prompt, num_inference_steps=steps, guidance_scale=guidance, width=resolution,
                                    height=resolution, generator=torch.Generator("cpu").manual_seed(seed)).images[0]
        return image

    def save_adapters(self, folder: Path, states: Mapping[str, Mapping[str, Tensor]],
                      metadata: Mapping[str, Mapping[str, object]]) -> Path:
        """Write `pytorch_lora_weights.safetensors`; metadata: component -> peft's `r` and `lora_alpha`.

        alpha / r is folded into B, so that every reader scales rightly: one that ignores metadata, as older diffusers
        does, and one whose LoraConfig lacks a field that ours has, takes alpha = r and is right.
        """
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for component, state in states.items():
            prefix = self._prefix(component)
            scale = _number(metadata[component]["lora_alpha"]) / _number(metadata[component]["r"])
            for name, tensor in state.items():
                own = name.removeprefix("text_model.") if component == "text_encoder" else name
                tensors[prefix + own] = (tensor * scale if ".lora_B." in name else tensor).contiguous()
        path = folder / "pytorch_lora_weights.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        return path

    def _prefix(self, component: str) -> str:
        # transformers 5.6 dropped `text_model.` from the module's names; other readers still expect it
        return {"denoiser": "unet.", "text_encoder": "text_encoder.text_model."}[component]

    def tiny(self, folder: Path, *, prediction: str = "epsilon") -> None:
        """A base of 0.3 M parameters for 32-pixel pictures: VAE factor 4, UNet factor 2, prompts of 77 tokens."""
        _hush()
        import torch
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        tokenizer = _byte_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            unet = UNet2DConditionModel(
                sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
                attention_head_dim=4, cross_attention_dim=32, mid_block_type="UNetMidBlock2DCrossAttn",
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
            vae = AutoencoderKL(
                sample_size=32, block_out_channels=(8, 8, 16), norm_num_groups=4, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
            text_encoder = CLIPTextModel(CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                  clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                                  prediction_type=prediction)
        StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, safety_checker=None,
                                feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} of the base cannot be read: {error}",
                          fix="check that `base.path` is a complete folder in diffusers format") from error
    if not isinstance(config, dict):
        raise RecipeError(f"{path} of the base is no table of settings", fix="check `base.path`")
    return config


def _halvings(folder: Path) -> int:
    return int(2 ** (len(_config(folder / "config.json").get("block_out_channels", (1,) * 4)) - 1))


def _number(value: object) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, found {value!r}")
    return float(value)


def _hush() -> None:
    """Silence the libraries; before their pipelines are imported, since the import itself prints."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _byte_tokenizer() -> Any:
    """A CLIP tokenizer of bytes: 256 symbols, the same at a word's end, two marks; no merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    entries = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=[], model_max_length=77)
