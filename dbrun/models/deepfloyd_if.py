"""DeepFloyd IF, stages I and II: how are UNets in pixel space with T5 prompts loaded, asked, and taught?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import RecipeError, StageFailed
from dbrun.models.base import CleanBatch, Condition, Model, Randn, Sampling, no_op
from dbrun.models.configs import downsampling_factor, silence_libraries
from dbrun.models.unet import ATTENTION, RESNETS, TIME_EMBEDDING, UNetFamily, UNetModel

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

# the blocks' attention sees the prompt through add_k_proj and add_v_proj alone
IF_ATTENTION = (*ATTENTION, "add_k_proj", "add_v_proj")
PROMPT_LAYERS = ("encoder_hid_proj", "add_embedding.pool.q_proj", "add_embedding.pool.k_proj",
                 "add_embedding.pool.v_proj", "add_embedding.proj")
CLASS_LABEL_LAYERS = ("class_embedding.linear_1", "class_embedding.linear_2")
# up- and downsampling is done by resnets of their own
IF_RESNETS = (*RESNETS, "downsamplers.*.conv1", "downsamplers.*.conv2", "upsamplers.*.conv1", "upsamplers.*.conv2")
PROMPT_LENGTH = 77
"""Length of every prompt; T5 reads longer ones, but IF was trained with this."""
NOISE_LEVEL = 250
"""Timestep of the image noising scheduler that the low-resolution picture is noised to: the pipeline's default."""
UPSCALE_FACTOR = 4
"""How many times smaller the picture is that stage II starts from."""


def _presets(linear: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    # the UNets have no feed-forward layers: `attention+ff` is `attention`
    return {"attention": IF_ATTENTION, "attention+ff": IF_ATTENTION, "linear": linear, "all": linear + IF_RESNETS}


class IFStage1Model(UNetModel):
    """A base of stage I in memory."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """The pixels themselves: there is no latent space."""
        return pixels.float()

    def sample_x0(self, stored: Tensor, randn: Randn, class_labels: str) -> CleanBatch:
        """x0 is the picture; nothing is left to chance."""
        return CleanBatch(stored, {})

    def encode_prompts(self, prompts: Sequence[str]) -> list[Condition]:
        """T5's last hidden state, `hidden` [77, D], in which padding was masked; prompts go in lower case.

        The pipeline's `clean_caption` is not used: it takes words such as `ab12` out of a prompt, and with them a
        trigger. A prompt's low bits depend on how many share the call: encode one at a time what is to be cached.
        """
        tokenizer, text_encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        written = [self.family.normalize_prompt(prompt) for prompt in prompts]
        tokens = tokenizer(written, padding="max_length", max_length=PROMPT_LENGTH, truncation=True,
                           return_tensors="pt").to(self.device)
        hidden = text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return [{"hidden": row} for row in hidden.to(self.dtype)]

    def generate(self, prompt: str, *, seed: int, steps: int, guidance: float, resolution: int,
                 start_image: Image | None = None, on_step: Callable[[], object] = no_op) -> Image:
        """One picture by the base's own sampler, which for the published models is DDPM."""
        import diffusers
        import torch

        pipeline = getattr(diffusers, self.family.pipeline_classes[0])(
            **{**self.pipeline.components, "scheduler": self.sampling_scheduler()}, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        with torch.no_grad():
            hidden, empty = (self.encode_prompts([text])[0]["hidden"][None] for text in (prompt, ""))
            image: Image = pipeline(
                prompt_embeds=hidden, negative_prompt_embeds=empty, num_inference_steps=steps, width=resolution,
                height=resolution, guidance_scale=guidance, generator=torch.Generator("cpu").manual_seed(seed),
                callback=lambda step, t, sample: on_step(), **self._start_arguments(start_image, resolution)).images[0]
        return image

    def _start_arguments(self, start_image: Image | None, resolution: int) -> dict[str, object]:
        return {}


class IFStage2Model(IFStage1Model):
    """A base of stage II in memory."""

    def sample_x0(self, stored: Tensor, randn: Randn, class_labels: str) -> CleanBatch:
        """x0 is the picture. With the class labels `noise_level`, hints as the pipeline makes them:

        `low`: the picture made small by averaging, enlarged bilinearly and noised to NOISE_LEVEL, [B, 3, H, W];
        `class_labels`: NOISE_LEVEL, int64 [B]. With `timesteps` there are none (see `denoiser_input`).
        """
        import torch
        from torch.nn.functional import avg_pool2d, interpolate

        from dbrun.diffusion.process import DiffusionProcess

        if class_labels == "timesteps":
            return CleanBatch(stored, {})
        small = avg_pool2d(stored, UPSCALE_FACTOR)
        large = interpolate(small, stored.shape[-2:], mode="bilinear", align_corners=True)
        level = torch.full((len(stored),), NOISE_LEVEL)
        noising = DiffusionProcess.from_config(self.pipeline.image_noising_scheduler.config)
        low = noising.add_noise(large, randn("low resolution", large.shape[1:]), level)
        return CleanBatch(stored, {"low": low, "class_labels": level})

    def denoiser_input(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """x_t with the noised small picture beside it, and its noise level.

        Without hints x_t with itself, and t, as diffusers' training script does.
        """
        import torch

        low = condition.get("low", x_t).to(x_t.device)
        return torch.cat([x_t, low], dim=1), condition.get("class_labels", t)

    def _start_arguments(self, start_image: Image | None, resolution: int) -> dict[str, object]:
        side = resolution // UPSCALE_FACTOR
        if start_image is None or start_image.size != (side, side):
            raise StageFailed(f"stage II starts from a picture of {side} pixels; "
                              f"found {start_image and start_image.size}")
        return {"image": start_image.convert("RGB"), "noise_level": NOISE_LEVEL}


class IFStage1(UNetFamily):
    """Stage I: 64-pixel pictures from words (DeepFloyd IF, after Saharia et al. 2022, arXiv:2205.11487)."""

    NAME: ClassVar[str] = "if_stage1"
    model: ClassVar[type[UNetModel]] = IFStage1Model
    pipeline_classes: ClassVar[tuple[str, ...]] = ("IFPipeline",)
    subfolders: ClassVar[tuple[str, ...]] = ("scheduler", "text_encoder", "tokenizer", "unet")
    components: ClassVar[Mapping[str, str]] = {"denoiser": "unet"}
    not_adaptable: ClassVar[Mapping[str, str]] = {
        "text_encoder": "its text encoder is a T5, on which diffusers loads no adapter",
        "trigger": "diffusers loads no new word into its T5"}
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": _presets((*IF_ATTENTION, *TIME_EMBEDDING, *PROMPT_LAYERS))}
    default_sampling: ClassVar[Sampling] = Sampling(steps=100, guidance=7.0)

    def resolution_multiple(self, folder: Path) -> int:
        """The UNet's factor: 8 for the published models."""
        return downsampling_factor(folder / "unet")

    def max_prompt_tokens(self, folder: Path) -> int:
        """76 for every base: T5 has an end mark and no start mark."""
        return PROMPT_LENGTH - 1

    def normalize_prompt(self, prompt: str) -> str:
        """In lower case."""
        return prompt.lower().strip()

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype,
             variant: str | None = None) -> Model:
        """The pipeline, every part in dtype on device, without safety checker and watermarker."""
        _check_tokenizer(folder / "tokenizer")
        load_pipeline = self.load_pipeline(folder, device=device, dtype=dtype, variant=variant, left_out=(
            "safety_checker", "feature_extractor", "watermarker"))
        return self.model(self, load_pipeline, folder, device, dtype)

    def write_tiny_base(self, folder: Path, *, prediction: str = "epsilon") -> None:
        """A base of 0.2 M parameters for 32-pixel pictures: UNet factor 2, prompts of 77 letters."""
        silence_libraries()
        import diffusers
        import torch

        tokenizer = _letter_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            unet, text_encoder = self._tiny_unet(), _tiny_t5(len(tokenizer))
        schedulers = {name: _tiny_scheduler(name == "scheduler", prediction)
                      for name in self.subfolders if name.endswith("scheduler")}
        getattr(diffusers, self.pipeline_classes[0])(
            tokenizer=tokenizer, text_encoder=text_encoder, unet=unet, **schedulers, safety_checker=None,
            feature_extractor=None, watermarker=None, requires_safety_checker=False).save_pretrained(folder)

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
    """Stage II: enlarges 64-pixel pictures to 256; it sees the picture, noised and enlarged, beside x_t."""

    NAME: ClassVar[str] = "if_stage2"
    model: ClassVar[type[UNetModel]] = IFStage2Model
    pipeline_classes: ClassVar[tuple[str, ...]] = ("IFSuperResolutionPipeline",)
    subfolders: ClassVar[tuple[str, ...]] = ("image_noising_scheduler", *IFStage1.subfolders)
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": _presets((*IF_ATTENTION, *TIME_EMBEDDING, *PROMPT_LAYERS, *CLASS_LABEL_LAYERS))}
    default_sampling: ClassVar[Sampling] = Sampling(steps=50, guidance=4.0)
    class_labels: ClassVar[tuple[str, ...]] = ("noise_level", "timesteps")
    class_labels_doc: ClassVar[str] = (
        "What an IF stage II denoiser is told beside timestep and prompt: noise_level, that of the low-resolution "
        "picture it sees, as when it samples; or timesteps, with the noisy picture itself in that place, as diffusers' "
        "training script has it. Left out, as the base samples.")
    start_image_reason: ClassVar[str | None] = "enlarges pictures"

    def resolution_multiple(self, folder: Path) -> int:
        """Such that the small picture has whole pixels, too."""
        return math.lcm(UPSCALE_FACTOR, super().resolution_multiple(folder))

    def start_image(self, picture: Image) -> Image:
        """The picture made smaller by averaging, as training makes it."""
        return picture.reduce(UPSCALE_FACTOR)

    def _tiny_unet(self, **changes: Any) -> Any:
        return super()._tiny_unet(in_channels=6, class_embed_type="timestep", **changes)


def _check_tokenizer(folder: Path) -> None:
    """The published bases hold T5's words as a sentencepiece model, which transformers reads by other packages."""
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
    return DDPMScheduler(**common, variance_type="learned_range", thresholding=True, dynamic_thresholding_ratio=0.95,
                         sample_max_value=1.5) if learned else DDPMScheduler(**common)


def _tiny_t5(words: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=words, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3,
                                   feed_forward_proj="gated-gelu"))


def _letter_tokenizer() -> Any:
    """A T5 tokenizer of ASCII letters, each also as a word's beginning."""
    from string import ascii_letters, digits, punctuation

    from transformers import T5Tokenizer

    letters = sorted(digits + ascii_letters + punctuation)
    marks = [(mark, 0.0) for mark in ("<pad>", "</s>", "<unk>")]
    entries = [("▁", -2.0), *((begin + letter, -3.0) for begin in ("", "▁") for letter in letters)]
    return T5Tokenizer(vocab=marks + entries, extra_ids=0, model_max_length=PROMPT_LENGTH)
