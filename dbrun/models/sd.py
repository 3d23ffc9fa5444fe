"""Family `sd`, Stable Diffusion 1.x and 2.x: a UNet on VAE latents with one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import RecipeError
from dbrun.models.base import Sampling, SamplingConditions
from dbrun.models.configs import downsampling_factor, read_config, silence_libraries, tokenizer_length
from dbrun.models.file_names import PublishedNames
from dbrun.models.latents import LatentModel, tiny_vae
from dbrun.models.ldm_layouts import SD1, SD2, Layout
from dbrun.models.new_tokens import Vocabulary
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.prompt_reading import NUM_MARKS, read_state, tokenize
from dbrun.models.scheduling import published_prediction
from dbrun.models.tiny_text import byte_tokenizer, tiny_clip
from dbrun.models.unet import ATTENTION, RESNETS, TIME_EMBEDDING, UNetFamily, UNetModel

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
# proj_in and proj_out are convolutions in 1.x and linear in 2.x, so only `all` may name them
CONVOLUTIONS = ("proj_in", "proj_out", *RESNETS, "downsamplers.*.conv", "upsamplers.*.conv")
LATENT_CHANNELS = 4
"""Channels of a UNet's input and of a VAE's latents where their configs leave them out."""
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_FEED_FORWARD = ("mlp.fc1", "mlp.fc2")


class StableDiffusionModel(LatentModel, UNetModel):
    """Base of Stable Diffusion 1.x or 2.x in memory."""

    def module(self, component: str) -> nn.Module:
        """Module of a component, or the vectors of new words, created at the first call."""
        if component not in self.family.token_components:
            return super().module(component)
        if component not in self.new_tokens:
            self.new_tokens[component] = self._new_embeddings()
        return self.new_tokens[component]

    def _new_embeddings(self) -> nn.Module:
        """Vectors of new words, none so far."""
        return Vocabulary(self.component("tokenizer"), self.component("text_encoder")).new_embeddings

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts to the text encoder's last hidden state, `hidden` [L, D] each, padded to the full length L.

        With `prompt_reading` of several pieces, [pieces · L, D]; with a clip skip, of an earlier layer. The lowest bits
        of a result depend on the batch size: encode prompts one by one where the result is cached.
        """
        import torch

        tokenizer, encoder = self.component("tokenizer"), self.component(text_encoder)
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        # `word` becomes `word word_1 …` for a new word of several vectors; the pipeline does the same when it samples
        expanded = self._pipeline.maybe_convert_prompt(list(prompts), tokenizer)
        states: list[Tensor] = []
        for tokens in tokenize(tokenizer, expanded, length, self.prompt_reading.chunks):
            # Stable Diffusion attends to the padding: it was trained without a mask
            mask = None
            if getattr(encoder.config, "use_attention_mask", False):
                mask = tokens.attention_mask.to(self.device)
            states.append(read_state(encoder, tokens.input_ids.to(self.device), mask,
                                     self.prompt_reading.clip_skip))
        return [{"hidden": row} for row in torch.cat(states, dim=1)]

    def single_file_state_dict(self) -> Mapping[str, Tensor]:
        """All tensors by the names of the original releases: float32 on the CPU, weights [out, in …]."""
        from dbrun.models.ldm_keys import ldm_state_dict

        return ldm_state_dict(self.pipeline, self.family.written_layout(self.folder))

    def _draw(self, pipeline: Any, conditions: Sequence[SamplingConditions], **settings: Any) -> list[Image]:
        latents = pipeline(**self.prompt_arguments(conditions), output_type="latent", **settings).images
        # the pipeline would decode a whole block at once, and SDXL's in 32 bits only where the VAE was loaded in 16
        return self._decode(pipeline, latents)

    def sampling_scheduler(self) -> Any:
        """DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) on the base's noise schedule, for every prediction type."""
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler.from_config(self.scheduler.config)


class StableDiffusion(UNetFamily):
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2021, arXiv:2112.10752)."""

    NAME: ClassVar[str] = "sd"
    model: ClassVar[type[PipelineModel]] = StableDiffusionModel
    pipeline_classes: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    refused_pipelines: ClassVar[Mapping[str, str]] = {
        "StableDiffusionInpaintPipeline": "a base for inpainting: it fills a masked part of a picture"}
    subfolders: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
    components: ClassVar[Mapping[str, str]] = {"denoiser": "unet", "text_encoder": "text_encoder"}
    autoencoder: ClassVar[str | None] = "vae"
    checkpoint_layouts: ClassVar[tuple[Layout, ...]] = (SD1, SD2)
    left_out: ClassVar[tuple[str, ...]] = (*UNetFamily.left_out, "image_encoder")
    token_components: ClassVar[tuple[str, ...]] = ("trigger",)
    one_piece_reason: ClassVar[str | None] = None
    clip_skip_reason: ClassVar[str | None] = None
    component_docs: ClassVar[Mapping[str, str]] = {
        **UNetFamily.component_docs,
        "text_encoder": "The adapter of the text encoder; left out, the text encoder is not trained.",
        "trigger": "Textual inversion: a new word for the subject, trained with the adapters or alone; left out, no "
                   "new word is trained."}
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": {"attention": ATTENTION, "attention+ff": ATTENTION + FEED_FORWARD,
                     "linear": ATTENTION + FEED_FORWARD + TIME_EMBEDDING,
                     "all": ATTENTION + FEED_FORWARD + TIME_EMBEDDING + CONVOLUTIONS},
        "text_encoder": {"attention": TEXT_ATTENTION, "attention+ff": TEXT_ATTENTION + TEXT_FEED_FORWARD,
                         "linear": TEXT_ATTENTION + TEXT_FEED_FORWARD, "all": TEXT_ATTENTION + TEXT_FEED_FORWARD},
    }
    default_sampling: ClassVar[Sampling] = Sampling(steps=25, guidance=7.5)
    # float32: 2 × 4 channels for each 4×4 pixels at least; 77 vectors of at most 1,280 numbers
    encoded_bytes_per_pixel: ClassVar[float] = 2.0
    encoded_bytes_per_prompt: ClassVar[int] = 400_000
    # transformers 5.6 dropped `text_model.` from the module's names; other readers of the files still expect it
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {
        **UNetFamily.diffusers_prefixes, "text_encoder": ("text_model.", "text_encoder.text_model.")}
    older_prefixes: ClassVar[Mapping[str, str]] = {"text_encoder": "text_model."}
    kohya_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {
        "denoiser": ("", "lora_unet_"), "text_encoder": ("text_model.", "lora_te_text_model_")}
    # comfy/lora.py @ec93dcac, model_lora_keys_unet: attention as `.processor.to_q`, all else as it is here
    comfyui_unread: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "denoiser": tuple(f"*.attn*.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0"))}
    # OneTrainer numbers the one text encoder as SDXL's first
    other_kohya_prefixes: ClassVar[Mapping[str, str]] = {"lora_te1_text_model_": "lora_te_text_model_"}
    # the original name: ComfyUI and A1111 list this norm, which no LoRA has, under no other
    kohya_names: ClassVar[Mapping[str, Mapping[str, str]]] = {"denoiser": {"conv_norm_out": "out_0"}}

    def resolution_multiple(self, folder: Path) -> int:
        """Product of the VAE's and the UNet's downsampling factors: 64 for the published models."""
        return downsampling_factor(folder / "vae") * downsampling_factor(folder / "unet")

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """Length of the tokenizer or the text encoder, whichever is smaller, less two marks: 75 as published."""
        return (PromptLimit("tokenizer", self.prompt_length(folder, "tokenizer", "text_encoder") - NUM_MARKS),)

    def prompt_length(self, folder: Path, tokenizer: str, text_encoder: str) -> int:
        """Tokens of every prompt of a tokenizer and its text encoder, by their folders; marks and padding included."""
        positions = int(read_config(folder / text_encoder / "config.json").get("max_position_embeddings", 77))
        return tokenizer_length(folder, tokenizer, positions)

    def check_configs(self, folder: Path) -> None:
        """Raise RecipeError also for a base whose UNet does not take what its VAE gives."""
        super().check_configs(folder)
        taken = read_config(folder / "unet" / "config.json").get("in_channels", LATENT_CHANNELS)
        given = read_config(folder / "vae" / "config.json").get("latent_channels", LATENT_CHANNELS)
        # an inpainting UNet takes 9 channels: latents, mask and masked latents
        if taken != given:
            raise RecipeError(f"the base's UNet takes {taken} channels and its VAE gives {given}: it is not a "
                              "text-to-image base",
                              fix="choose a base that is not for inpainting")

    def original_layer_names(self, folder: Path, component: str, names: Iterable[str]) -> Mapping[str, str]:
        """Names of the UNet's layers as kohya's trainers write them for SDXL, such as `input_blocks.4.1.proj_in`."""
        from dbrun.models.ldm_keys import unet_key

        if self.components[component] != "unet":
            return {}
        config, end = read_config(folder / "unet" / "config.json"), ".weight"
        return {name: unet_key(name + end, config).removesuffix(end) for name in names}

    def written_layout(self, folder: Path) -> Layout:
        """Layout by the UNet's config, as diffusers' readers tell 1.x and 2.x apart."""
        return SD2 if read_config(folder / "unet" / "config.json").get("use_linear_projection") else SD1

    def published_names(self, folder: Path) -> PublishedNames:
        """Those of 1.x, or of 2.x at 512 pixels, or of 2.x with v-prediction, which is the one at 768."""
        prediction = published_prediction(self.scheduler_config(folder))
        is_v2 = self.written_layout(folder) is SD2
        architecture, kohya = "stable-diffusion-v1", "sd_v1"
        if is_v2:
            architecture, kohya = "stable-diffusion-v2-512", "sd_v2"
        if prediction == "v":
            kohya += "_v"
            if is_v2:
                architecture = "stable-diffusion-v2-768-v"
        return PublishedNames(architecture, kohya, is_v2, prediction)

    def single_file_obstacle(self, folder: Path | None) -> str | None:
        """Reason for a 2.x base whose text encoder has more layers than diffusers' reader loads; else None."""
        from dbrun.models.ldm_keys import MAX_TEXT_LAYERS

        if folder is None or self.written_layout(folder) is not SD2:
            return None
        layers = int(read_config(folder / "text_encoder" / "config.json").get("num_hidden_layers", 0))
        if layers > MAX_TEXT_LAYERS:
            return f"whose readers load {MAX_TEXT_LAYERS} layers of a 2.x text encoder, but this base's has {layers}"
        return None

    def write_tiny_base(self, folder: Path, *, prediction: str = "epsilon") -> None:
        """Write a base of 0.3 M parameters for 32-pixel pictures: VAE factor 4, UNet factor 2, prompts of 77 tokens."""
        silence_libraries()
        import torch
        from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

        tokenizer = byte_tokenizer()
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            unet = UNet2DConditionModel(
                sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
                attention_head_dim=4, cross_attention_dim=32, mid_block_type="UNetMidBlock2DCrossAttn",
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
            vae = tiny_vae()
            text_encoder = tiny_clip(tokenizer, width=32)
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                  clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                                  prediction_type=prediction)
        StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, safety_checker=None,
                                feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)
