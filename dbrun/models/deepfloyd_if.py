"""Families `if_stage1` and `if_stage2`, DeepFloyd IF: UNets on pixels, conditioned by a T5 text encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import RecipeError, StageFailed
from dbrun.models.base import CleanBatch, Condition, Model, Randn, Sampling, SamplingConditions, no_op
from dbrun.models.configs import downsampling_factor, silence_libraries
from dbrun.models.pipelines import PipelineModel, cpu_generators
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.tiny_text import letter_tokenizer, tiny_t5
from dbrun.models.unet import ATTENTION, RESNETS, TIME_EMBEDDING, UNetFamily, UNetModel

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

# in IF's attention the prompt enters through add_k_proj and add_v_proj only
IF_ATTENTION = (*ATTENTION, "add_k_proj", "add_v_proj")
PROMPT_LAYERS = ("encoder_hid_proj", "add_embedding.pool.q_proj", "add_embedding.pool.k_proj",
                 "add_embedding.pool.v_proj", "add_embedding.proj")
CLASS_LABEL_LAYERS = ("class_embedding.linear_1", "class_embedding.linear_2")
# IF up- and downsamples with resnets, not with single convolutions
IF_RESNETS = (*RESNETS, "downsamplers.*.conv1", "downsamplers.*.conv2", "upsamplers.*.conv1", "upsamplers.*.conv2")
PROMPT_LENGTH = 77
"""Tokens of every prompt, padding included; T5 reads longer ones, but IF was trained with 77."""
NOISE_LEVEL = 250
"""Timestep of the image noising scheduler for the low-resolution picture; the default of diffusers' pipeline."""
UPSCALE_FACTOR = 4
"""Factor by which stage II enlarges the side of its start image."""


def _presets(linear: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    # the UNets have no feed-forward layers, so `attention+ff` is the same as `attention`
    return {"attention": IF_ATTENTION, "attention+ff": IF_ATTENTION, "linear": linear, "all": linear + IF_RESNETS}


class IFStage1Model(UNetModel):
    """Base of stage I in memory."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] as float32, unchanged: there is no latent space."""
        return pixels.float()

    def sample_x0(self, stored: Tensor, randn: Randn, class_labels: str) -> CleanBatch:
        """Stored pixels [B, 3, H, W] as x0; nothing is drawn at random."""
        return CleanBatch(stored, {})

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts to T5's last hidden state, `hidden` [77, D] each, with the padding masked.

        The lowest bits of a result depend on the batch size: encode prompts one by one where the result is cached.
        """
        tokenizer, encoder = self.component("tokenizer"), self.component(text_encoder)
        # not the pipeline's `clean_caption`: it removes words such as `ab12`, and with them a trigger word
        normalized = [self.family.normalize_prompt(prompt) for prompt in prompts]
        tokens = tokenizer(normalized, padding="max_length", max_length=PROMPT_LENGTH, truncation=True,
                           return_tensors="pt").to(self.device)
        hidden = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return [{"hidden": row} for row in hidden.to(self.dtype)]

    def generate_block(self, conditions: Sequence[SamplingConditions], seeds: Sequence[int], *, steps: int,
                       guidance: float, resolution: int, start_image: Image | None = None,
                       on_step: Callable[[], object] = no_op) -> list[Image]:
        """Sample a block of pictures with the base's own scheduler, which is DDPM for the published models."""
        import torch

        pipeline = self.sampling_pipeline("unet")
        start_arguments = self._start_arguments(start_image, resolution)
        # the prompts as training encodes them; the pipeline would clean them, see `encode_with`
        hidden = torch.stack([condition.prompt["hidden"] for condition in conditions])
        negative = torch.stack([condition.negative["hidden"] for condition in conditions])
        with torch.no_grad():
            images: list[Image] = pipeline(
                prompt_embeds=hidden, negative_prompt_embeds=negative, num_inference_steps=steps, width=resolution,
                height=resolution, guidance_scale=guidance, generator=cpu_generators(seeds),
                callback=lambda step, t, sample: on_step(), **start_arguments).images
        return images

    def _start_arguments(self, start_image: Image | None, resolution: int) -> dict[str, object]:
        """Further arguments of the pipeline's call."""
        return {}


class IFStage2Model(IFStage1Model):
    """Base of stage II in memory: its UNet sees x_t and the noised, enlarged low-resolution picture."""

    def sample_x0(self, stored: Tensor, randn: Randn, class_labels: str) -> CleanBatch:
        """Stored pixels [B, 3, H, W] as x0, with the conditions of the low-resolution picture.

        For the class labels `noise_level`: `low` [B, 3, H, W], the picture made smaller by averaging, enlarged
        bilinearly and noised to NOISE_LEVEL; and `class_labels`, int64 [B], all NOISE_LEVEL.
        For `timesteps`: none (see `denoiser_input`).
        """
        import torch
        from torch.nn.functional import avg_pool2d, interpolate

        from dbrun.diffusion.ddpm import DiffusionProcess

        if class_labels == "timesteps":
            return CleanBatch(stored, {})
        small = avg_pool2d(stored, UPSCALE_FACTOR)
        large = interpolate(small, stored.shape[-2:], mode="bilinear", align_corners=True)
        level = torch.full((len(stored),), NOISE_LEVEL)
        # the base has a second scheduler for this noise, with betas of its own
        noising = DiffusionProcess.from_config(self.component("image_noising_scheduler").config)
        low = noising.add_noise(large, randn("low resolution", large.shape[1:]), level)
        return CleanBatch(stored, {"low": low, "class_labels": level})

    def denoiser_input(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Concatenate x_t [B, 3, H, W] and the low-resolution picture to [B, 6, H, W]; labels: its noise level."""
        import torch

        # without `low`, x_t twice and t as labels: what diffusers' train_dreambooth script feeds to stage II
        low = condition.get("low", x_t).to(x_t.device)
        return torch.cat([x_t, low], dim=1), condition.get("class_labels", t)

    def _start_arguments(self, start_image: Image | None, resolution: int) -> dict[str, object]:
        side = resolution // UPSCALE_FACTOR
        if start_image is None or start_image.size != (side, side):
            found = "none"
            if start_image is not None:
                found = f"{start_image.width}×{start_image.height} pixels"
            raise StageFailed(f"stage II needs a start image of {side}×{side} pixels; found {found}")
        return {"image": start_image.convert("RGB"), "noise_level": NOISE_LEVEL}


class IFStage1(UNetFamily):
    """Stage I: draws 64-pixel pictures from prompts (DeepFloyd IF, after Saharia et al. 2022, arXiv:2205.11487)."""

    NAME: ClassVar[str] = "if_stage1"
    model: ClassVar[type[PipelineModel]] = IFStage1Model
    pipeline_classes: ClassVar[tuple[str, ...]] = ("IFPipeline",)
    subfolders: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer", "unet")
    components: ClassVar[Mapping[str, str]] = {"denoiser": "unet"}
    left_out: ClassVar[tuple[str, ...]] = (*UNetFamily.left_out, "watermarker")
    not_adaptable: ClassVar[Mapping[str, str]] = {
        "text_encoder": "its text encoder is a T5, for which diffusers loads no adapter",
        "trigger": "diffusers cannot load a new word into its T5"}
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": _presets((*IF_ATTENTION, *TIME_EMBEDDING, *PROMPT_LAYERS))}
    default_sampling: ClassVar[Sampling] = Sampling(steps=100, guidance=7.0)

    def resolution_multiple(self, folder: Path) -> int:
        """Downsampling factor of the UNet: 8 for the published models."""
        return downsampling_factor(folder / "unet")

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """Tokens of a prompt without the end mark: 76; T5 has no start mark."""
        return (PromptLimit("tokenizer", PROMPT_LENGTH - 1),)

    def normalize_prompt(self, prompt: str) -> str:
        """Prompt in lower case, without white space at its ends, as IF was trained."""
        return prompt.lower().strip()

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype,
             variant: str | None = None) -> Model:
        """Open the base as `UNetFamily` does. Raises RecipeError, also where the tokenizer needs a package."""
        _check_tokenizer(folder / "tokenizer")
        return super().load(folder, device=device, dtype=dtype, variant=variant)

    def write_tiny_base(self, folder: Path, *, prediction: str = "epsilon") -> None:
        """Write a base of 0.2 M parameters for 32-pixel pictures: UNet factor 2, prompts of 77 letters."""
        silence_libraries()
        import diffusers
        import torch

        tokenizer = letter_tokenizer(PROMPT_LENGTH)
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            unet, text_encoder = self._tiny_unet(), tiny_t5(len(tokenizer))
        schedulers = {name: _tiny_scheduler(name == "scheduler", prediction)
                      for name in self.subfolders if name.endswith("scheduler")}
        pipeline_class = getattr(diffusers, self.pipeline_classes[0])
        pipeline = pipeline_class(tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, **schedulers,
                                  safety_checker=None, feature_extractor=None, watermarker=None,
                                  requires_safety_checker=False)
        pipeline.save_pretrained(folder)

    def _tiny_unet(self, **changes: Any) -> Any:
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(**{
            "sample_size": 32, "in_channels": 3, "out_channels": 6, "block_out_channels": (16, 32),
            "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 8, "cross_attention_dim": 32,
            "encoder_hid_dim": 24, "encoder_hid_dim_type": "text_proj", "addition_embed_type": "text",
            "addition_embed_type_num_heads": 2, "cross_attention_norm": "group_norm", "act_fn": "gelu",
            "resnet_time_scale_shift": "scale_shift", "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), **changes})


class IFStage2(IFStage1):
    """Stage II: enlarges 64-pixel pictures to 256 pixels; its UNet sees the noised small picture beside x_t."""

    NAME: ClassVar[str] = "if_stage2"
    model: ClassVar[type[PipelineModel]] = IFStage2Model
    pipeline_classes: ClassVar[tuple[str, ...]] = ("IFSuperResolutionPipeline",)
    subfolders: ClassVar[tuple[str, ...]] = ("image_noising_scheduler", *IFStage1.subfolders)
    scheduler_folders: ClassVar[tuple[str, ...]] = ("scheduler", "image_noising_scheduler")
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": _presets((*IF_ATTENTION, *TIME_EMBEDDING, *PROMPT_LAYERS, *CLASS_LABEL_LAYERS))}
    default_sampling: ClassVar[Sampling] = Sampling(steps=50, guidance=4.0)
    class_labels: ClassVar[tuple[str, ...]] = ("noise_level", "timesteps")
    class_labels_doc: ClassVar[str] = (
        "Class labels of the IF stage II denoiser while it trains. noise_level: the noise level of the low-resolution "
        "picture it sees, as when it samples; timesteps: the timestep, with the noisy picture in place of the "
        "low-resolution one, as diffusers' training script does it. Left out: as the base samples.")
    start_image_reason: ClassVar[str | None] = "enlarges pictures"

    def resolution_multiple(self, folder: Path) -> int:
        """Least common multiple of the UNet's factor and 4: the start image needs a whole side, too."""
        return math.lcm(UPSCALE_FACTOR, super().resolution_multiple(folder))

    def block_size(self, resolution: int) -> int:
        """Number of pictures sampled at once: one, since each starts from a picture of its own."""
        return 1

    def start_image(self, picture: Image) -> Image:
        """Picture made 4 times smaller by averaging, as `sample_x0` does for training."""
        return picture.reduce(UPSCALE_FACTOR)

    def _tiny_unet(self, **changes: Any) -> Any:
        return super()._tiny_unet(in_channels=6, class_embed_type="timestep", **changes)


def _check_tokenizer(folder: Path) -> None:
    """Raise RecipeError where the tokenizer needs a package that is missing."""
    # the published bases have no tokenizer.json, only a sentencepiece model; transformers needs both packages for it
    if (folder / "tokenizer.json").is_file() or not (folder / "spiece.model").is_file():
        return
    try:
        for package in ("sentencepiece", "google.protobuf"):
            import_module(package)
    except ImportError as error:
        raise RecipeError(f"{folder / 'spiece.model'} cannot be read: {error}",
                          fix="pip install sentencepiece protobuf") from error


def _tiny_scheduler(learned: bool, prediction: str) -> Any:
    from diffusers import DDPMScheduler

    common = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": prediction}
    if not learned:
        return DDPMScheduler(**common)
    return DDPMScheduler(**common, variance_type="learned_range", thresholding=True, dynamic_thresholding_ratio=0.95,
                         sample_max_value=1.5)
