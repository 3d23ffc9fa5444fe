"""Family `sdxl`, Stable Diffusion XL: a UNet on VAE latents, two text encoders, and the sizes of each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import RecipeError
from dbrun.models.base import Condition, Sampling, SamplingConditions
from dbrun.models.configs import downsampling_factor, loaded_class, read_config, silence_libraries
from dbrun.models.file_names import PublishedNames
from dbrun.models.latents import stack_negatives, stack_prompts, tiny_vae
from dbrun.models.ldm_layouts import SDXL, Layout
from dbrun.models.new_tokens import JointVocabulary, Vocabulary
from dbrun.models.pipelines import PipelineModel
from dbrun.models.prompt_encoding import EncoderOutput
from dbrun.models.prompt_length import PromptLimit
from dbrun.models.prompt_reading import NUM_MARKS, tokenize
from dbrun.models.scheduling import published_prediction
from dbrun.models.sd import (
    FEED_FORWARD,
    TEXT_ATTENTION,
    TEXT_FEED_FORWARD,
    StableDiffusion,
    StableDiffusionModel,
)
from dbrun.models.tiny_text import byte_tokenizer
from dbrun.models.unet import ATTENTION, RESNETS, TIME_EMBEDDING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# unlike Stable Diffusion 1.x, the projections around the attention blocks are linear layers
PROJECTIONS = ("proj_in", "proj_out")
ADDED_EMBEDDING = ("add_embedding.linear_1", "add_embedding.linear_2")
LINEAR = (*ATTENTION, *FEED_FORWARD, *PROJECTIONS, *TIME_EMBEDDING, *ADDED_EMBEDDING)
NUM_TIME_IDS = 6
"""Original height and width, top and left of the crop, target height and width (Podell et al. 2023, section 2.2)."""


class StableDiffusionXLModel(StableDiffusionModel):
    """Base of Stable Diffusion XL in memory (Podell et al. 2023, arXiv:2307.01952)."""

    def encode_with(self, text_encoder: str, prompts: Sequence[str]) -> list[EncoderOutput]:
        """Encode prompts with one text encoder, as `StableDiffusionXLPipeline` does: `hidden` [L, D] each.

        hidden: its last but one state; of the second encoder also `pooled` [P]. The lowest bits of a result depend on
        the batch size: encode prompts one by one where the result is cached.
        """
        import torch

        place = self.family.text_encoders.index(text_encoder)
        tokenizer, encoder = self.component(self.family.tokenizers[place]), self.component(text_encoder)
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        # `word` becomes `word word_1 …` for a new word of several vectors
        expanded = self._pipeline.maybe_convert_prompt(list(prompts), tokenizer)
        outputs = [encoder(tokens.input_ids.to(self.device), output_hidden_states=True)
                   for tokens in tokenize(tokenizer, expanded, length, self.prompt_reading.chunks)]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=1)
        if place == 0:
            return [{"hidden": row} for row in hidden]
        # of the first piece, as ComfyUI and kohya take it
        pooled = outputs[0].text_embeds
        return [{"hidden": row, "pooled": pooled[number]} for number, row in enumerate(hidden)]

    def join_outputs(self, prompt: str, outputs: Mapping[str, EncoderOutput]) -> Condition:
        """`hidden` [L, D1 + D2] of both text encoders and `pooled` [P] of the second.

        Zeros for the empty prompt, where the base's model_index.json says so.
        """
        import torch

        first, second = (outputs[name] for name in self.family.text_encoders)
        condition = {"hidden": torch.cat([first["hidden"], second["hidden"]], dim=-1), "pooled": second["pooled"]}
        if not prompt and self._pipeline.config.force_zeros_for_empty_prompt:
            # times zero, not new zeros: a trained text encoder gets its zero gradient also from a batch of these
            condition = {name: tensor * 0.0 for name, tensor in condition.items()}
        return condition

    def _new_embeddings(self) -> nn.Module:
        vocabularies: dict[str, Vocabulary] = {}
        names = zip(self.family.embedding_keys, self.family.tokenizers, self.family.text_encoders, strict=True)
        for key, tokenizer, text_encoder in names:
            vocabularies[key] = Vocabulary(self.component(tokenizer), self.component(text_encoder))
        return JointVocabulary(vocabularies).new_embeddings

    def added_conditions(self, x_t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
        """UNet's `text_embeds` [B, P] and `time_ids` [B, 6]: `pooled` and `time_ids` of the condition.

        Without `time_ids`: those of a picture of x_t's size that was never larger, as the pipeline draws them.
        """
        import torch

        from dbrun.diffusion.device_copy import one_to_device

        time_ids = condition.get("time_ids")
        if time_ids is None:
            factor = downsampling_factor(self.folder / "vae")
            height, width = x_t.shape[-2] * factor, x_t.shape[-1] * factor
            time_ids = torch.tensor([[height, width, 0, 0, height, width]]).expand(len(x_t), NUM_TIME_IDS)
        # in 32 bits: bfloat16 has no 1025
        return {"text_embeds": condition["pooled"].to(self.device, self.dtype),
                "time_ids": one_to_device(time_ids.float(), self.device)}

    def sampling_scheduler(self) -> Any:
        """New scheduler of the base's own kind: Euler for the published models."""
        return type(self.scheduler).from_config(self.scheduler.config)

    def prompt_arguments(self, conditions: Sequence[SamplingConditions]) -> dict[str, Any]:
        """The pipeline's arguments: `hidden` [B, L, D] and `pooled` [B, P] of prompts and negative prompts."""
        return {**super().prompt_arguments(conditions),
                "pooled_prompt_embeds": stack_prompts(conditions, "pooled"),
                "negative_pooled_prompt_embeds": stack_negatives(conditions, "pooled")}


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952), without its refiner."""

    NAME: ClassVar[str] = "sdxl"
    model: ClassVar[type[PipelineModel]] = StableDiffusionXLModel
    pipeline_classes: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    refused_pipelines: ClassVar[Mapping[str, str]] = {
        "StableDiffusionXLImg2ImgPipeline": "a refiner: it only finishes pictures that another base has begun",
        "StableDiffusionXLInpaintPipeline": "a base for inpainting: it fills a masked part of a picture"}
    subfolders: ClassVar[tuple[str, ...]] = (
        "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
    components: ClassVar[Mapping[str, str]] = {
        "denoiser": "unet", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"}
    checkpoint_layouts: ClassVar[tuple[Layout, ...]] = (SDXL,)
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    left_out: ClassVar[tuple[str, ...]] = ("feature_extractor", "image_encoder")
    size_conditioned: ClassVar[bool] = True
    clip_skip_reason: ClassVar[str | None] = (
        "always reads the last but one layer, which other programs call clip skip 2")
    embedding_keys: ClassVar[tuple[str, ...]] = ("clip_l", "clip_g")
    # as kohya's trainers write them: for some of SDXL's layers A1111 and sd-scripts look for no other name
    kohya_original_components: ClassVar[tuple[str, ...]] = ("denoiser",)
    component_docs: ClassVar[Mapping[str, str]] = {
        **StableDiffusion.component_docs,
        "text_encoder_2": "The adapter of the second text encoder, for bases that have two (SDXL: OpenCLIP bigG); left "
                          "out, it is not trained."}
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        "denoiser": {"attention": ATTENTION, "attention+ff": ATTENTION + FEED_FORWARD, "linear": LINEAR,
                     "all": (*LINEAR, *RESNETS, "downsamplers.*.conv", "upsamplers.*.conv")},
        "text_encoder": StableDiffusion.target_presets["text_encoder"],
        "text_encoder_2": {"attention": TEXT_ATTENTION, "attention+ff": TEXT_ATTENTION + TEXT_FEED_FORWARD,
                           "linear": (*TEXT_ATTENTION, *TEXT_FEED_FORWARD, "text_projection"),
                           "all": (*TEXT_ATTENTION, *TEXT_FEED_FORWARD, "text_projection")},
    }
    default_sampling: ClassVar[Sampling] = Sampling(steps=30, guidance=5.0)
    # float32: 77 vectors of 2,048 numbers, and 1,280 pooled ones
    encoded_bytes_per_prompt: ClassVar[int] = 650_000
    # `text_projection` lies outside of `text_model`, so that only the whole name of the second encoder is right
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {
        **StableDiffusion.diffusers_prefixes, "text_encoder_2": ("", "text_encoder_2.")}
    kohya_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {
        "denoiser": ("", "lora_unet_"), "text_encoder": ("text_model.", "lora_te1_text_model_"),
        "text_encoder_2": ("", "lora_te2_")}
    other_kohya_prefixes: ClassVar[Mapping[str, str]] = {}
    comfyui_unread: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **StableDiffusion.comfyui_unread, "text_encoder_2": ("text_projection",)}
    # sd-scripts keeps OpenCLIP's transposed matrix there
    lycoris_misread: ClassVar[Mapping[str, tuple[str, ...]]] = {"text_encoder_2": ("text_projection",)}

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """Length of the shorter tokenizer or text encoder, less two marks: 75 as published."""
        places = zip(self.tokenizers, self.text_encoders, strict=True)
        shorter = min(self.prompt_length(folder, tokenizer, text_encoder) for tokenizer, text_encoder in places)
        return (PromptLimit("tokenizer", shorter - NUM_MARKS),)

    def component_dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """float32 for the VAE, whose activations overflow in float16; all others have dtype."""
        import torch

        return torch.float32 if name == self.autoencoder else dtype

    def check_configs(self, folder: Path) -> None:
        """Raise RecipeError for a refiner, for a UNet or latents that are not SDXL's, and as `StableDiffusion` does."""
        index = read_config(folder / "model_index.json")
        if index.get("requires_aesthetics_score") or loaded_class(index, "text_encoder") is None:
            raise RecipeError(f"the base is {self.refused_pipelines['StableDiffusionXLImg2ImgPipeline']}",
                              fix="choose the base that it refines, such as stabilityai/stable-diffusion-xl-base-1.0")
        super().check_configs(folder)
        _check_latents(folder / "vae" / "config.json")
        unet = read_config(folder / "unet" / "config.json")
        pooled = int(read_config(folder / "text_encoder_2" / "config.json").get("projection_dim", 512))
        taken = int(unet.get("projection_class_embeddings_input_dim") or 0)
        if unet.get("addition_embed_type") != "text_time" or not unet.get("addition_time_embed_dim"):
            raise RecipeError("the base's UNet does not take the picture's size as an input, and SDXL's does",
                              fix="choose an SDXL base")
        ids, rest = divmod(taken - pooled, int(unet["addition_time_embed_dim"]))
        if (ids, rest) != (NUM_TIME_IDS, 0):
            raise RecipeError(f"the base's UNet takes {ids} numbers for a picture's sizes, and that of SDXL takes "
                              f"{NUM_TIME_IDS} (a refiner takes 5)",
                              fix="choose an SDXL base that draws pictures from text alone")

    def published_names(self, folder: Path) -> PublishedNames:
        """The one architecture of SDXL."""
        prediction = published_prediction(self.scheduler_config(folder))
        return PublishedNames("stable-diffusion-xl-v1-base", "sdxl_base_v1-0", False, prediction)

    def written_layout(self, folder: Path) -> Layout:
        """The one layout of SDXL."""
        return SDXL

    def write_tiny_base(self, folder: Path, *, prediction: str = "epsilon") -> None:
        """Write a base of 0.4 M parameters for 32-pixel pictures: VAE factor 4, UNet factor 2, prompts of 77 tokens.

        The text encoders have unequal widths, so that no mix-up of the two goes unseen.
        """
        silence_libraries()
        import torch
        from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        # padding by another token than the end mark, as published
        tokenizers = [byte_tokenizer(), byte_tokenizer(pad_token="!")]
        configs: list[Any] = []
        for tokenizer, width in zip(tokenizers, (32, 24), strict=True):
            configs.append(CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=3,
                num_attention_heads=4, max_position_embeddings=77, projection_dim=20,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id))
        # the weights must not depend on the caller's random state, nor change it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            unet = UNet2DConditionModel(
                sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
                attention_head_dim=(2, 4), cross_attention_dim=56, transformer_layers_per_block=(1, 2),
                use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=NUM_TIME_IDS * 8 + 20,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
            vae = tiny_vae(scaling_factor=0.13025)
            text_encoder, text_encoder_2 = CLIPTextModel(configs[0]), CLIPTextModelWithProjection(configs[1])
        scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                           steps_offset=1, timestep_spacing="leading", prediction_type=prediction)
        StableDiffusionXLPipeline(vae, text_encoder, text_encoder_2, *tokenizers, unet, scheduler,
                                  add_watermarker=False).save_pretrained(folder)


def _check_latents(file: Path) -> None:
    """Raise RecipeError for a VAE whose latents each channel shifts and scales in its own way."""
    config = read_config(file)
    for key in ("latents_mean", "latents_std"):
        # pipelines apply them when they sample, `sample_x0` would not when it trains
        if config.get(key) is not None:
            raise RecipeError(f"{file} of the base: found `{key}`: its latents are shifted and scaled in each channel, "
                              "as those of Playground v2.5 are, and training here only multiplies by `scaling_factor`",
                              fix="choose an SDXL base without it, such as stabilityai/stable-diffusion-xl-base-1.0")
