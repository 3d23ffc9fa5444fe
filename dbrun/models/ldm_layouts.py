"""Layouts of checkpoints of one file, and what a file's header says about the base in it; without torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbrun.diffusion.prediction import PredictionType
from dbrun.errors import RecipeError
from dbrun.models.configs import read_config
from dbrun.safetensors_header import Header, read_header

CHECKPOINT = ".checkpoint.safetensors"
"""Link to the file in the folder of such a base. The dot keeps it apart from the files of other bases."""
PUBLISHED = Path(__file__).parent / "published"
"""Folder with the configs of the published models, one folder for each."""
UNET, VAE = "model.diffusion_model.", "first_stage_model."
FIRST_CONVOLUTION = f"{UNET}input_blocks.0.0.weight"
BLOCK_WEIGHT = re.compile(r"(model\.diffusion_model\.)?(double_blocks|joint_blocks|transformer_blocks|layers)\.0\."
                          r"(\w+\.)*(qkv|to_q|attn)\.weight$")
"""A weight of a transformer's first block in a checkpoint of one file."""
CROSS_ATTENTION = ".attn2.to_k.weight"
LATENT_CHANNELS = 4
V_PREDICTION_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
"""Empty tensors in a file: v-prediction was trained, and no signal at the last timestep (NoobAI, ComfyUI, Forge)."""
WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")
"""Types of weights that are read; files in 8 bits or less have scales beside them, which no library here reads."""


@dataclass(frozen=True)
class TextNames:
    """Names of a text encoder. prefix: of all its tensors; open_clip: OpenCLIP's names, else those of transformers.

    projection: whether the encoder has a projection of its pooled vector, and transformers' names a `text_model.`
    """

    prefix: str
    open_clip: bool
    projection: bool = False

    @property
    def token_embedding(self) -> str:
        """Name of the vectors of its tokens, [tokens, width]."""
        if self.open_clip:
            return f"{self.prefix}token_embedding.weight"
        return f"{self.prefix}embeddings.token_embedding.weight"


@dataclass(frozen=True)
class Layout:
    """Names of a published model's tensors, and the numbers that tell its file from others.

    title: for people; text_encoders: by their names in model_index.json; configs: prediction type -> folder of its
    configs in PUBLISHED, the most frequent first; doubtful: whether files of both prediction types are common, so that
    only a hint decides; unet_tensors: number of the UNet's tensors; width: of its first convolution; context: of the
    text states that it attends to.
    """

    title: str
    text_encoders: Mapping[str, TextNames]
    configs: Mapping[PredictionType, str]
    doubtful: bool
    unet_tensors: int
    width: int
    context: int

    def is_published_size(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a file's UNet has the published size. shapes: tensor name -> shape."""
        count = sum(name.startswith(UNET) for name in shapes)
        size = (count, shapes[FIRST_CONVOLUTION][0], _context_width(shapes))
        return size == (self.unet_tensors, self.width, self.context)


CLIP_NAMES = TextNames("cond_stage_model.transformer.text_model.", open_clip=False)
OPEN_CLIP_NAMES = TextNames("cond_stage_model.model.", open_clip=True)
SD1 = Layout("Stable Diffusion 1.x", {"text_encoder": CLIP_NAMES}, {"epsilon": "sd1", "v_prediction": "sd1"},
             doubtful=False, unet_tensors=686, width=320, context=768)
SD2 = Layout("Stable Diffusion 2.x", {"text_encoder": OPEN_CLIP_NAMES}, {"v_prediction": "sd2_v", "epsilon": "sd2"},
             doubtful=True, unet_tensors=686, width=320, context=1024)
SDXL = Layout("Stable Diffusion XL",
              {"text_encoder": TextNames("conditioner.embedders.0.transformer.text_model.", open_clip=False),
               "text_encoder_2": TextNames("conditioner.embedders.1.model.", open_clip=True, projection=True)},
              {"epsilon": "sdxl", "v_prediction": "sdxl"}, doubtful=True, unet_tensors=1680, width=320, context=2048)

OTHER_FILES = (
    (("lora_", "lycoris_"), "a LoRA of kohya's kind, which is used on top of a base",
     "name it in `adapt.denoiser.init`"),
    (("unet.", "base_model.model.", "transformer."), "an adapter, or a part of a base in another layout",
     "name a whole checkpoint"),
    (("double_blocks.", f"{UNET}double_blocks.", "single_blocks."), "a FLUX checkpoint", "choose another base"),
    (("joint_blocks.", f"{UNET}joint_blocks."), "a Stable Diffusion 3 checkpoint", "choose another base"),
    (("control_model.", "controlnet_cond_embedding.", "input_hint_block."), "a ControlNet", "name a whole checkpoint"),
    (("down_blocks.", "conv_in.", "mid_block."), "a UNet alone, in diffusers' layout",
     "name the folder in diffusers format that it belongs to"),
    (("encoder.", "decoder.", "quant_conv."), "an autoencoder alone", "name a whole checkpoint"))
"""Beginnings of tensor names -> what such a file is, and what to do."""
OTHER_UNETS = {9: "a base for inpainting: it fills a masked part of a picture",
               8: "a base that edits pictures: it needs one to start from",
               5: "a base that takes a depth map beside the prompt"}
"""Channels that a UNet takes -> what such a base is; latents alone have 4."""


def is_whole_base(names: Collection[str]) -> bool:
    """Whether the tensors of a file, by their names, are a base's own and no adapter's: its denoiser is there."""
    return FIRST_CONVOLUTION in names or any(BLOCK_WEIGHT.match(name) for name in names)


def read_checkpoint(file: Path) -> tuple[Header, Mapping[str, tuple[int, ...]]]:
    """Header of a checkpoint, and shape of each of its tensors. Raises RecipeError."""
    header = read_header(file)
    return header, {name: tuple(tensor["shape"]) for name, tensor in header.tensors.items()}


def recognise(file: Path, header: Header, layouts: Mapping[str, tuple[Layout, ...]]) -> tuple[str, Layout]:
    """Family and layout of the base in a checkpoint. layouts: of each family, by its name.

    Raises RecipeError where it is something else, says what, and what to do.
    """
    names = header.tensors.keys()
    if FIRST_CONVOLUTION not in names:
        for beginnings, title, fix in OTHER_FILES:
            if any(name.startswith(beginnings) for name in names):
                raise RecipeError(f"{file} is {title}", fix=fix)
        raise RecipeError(f"{file} is not a checkpoint of Stable Diffusion: it has no tensor {FIRST_CONVOLUTION}",
                          fix="name a whole checkpoint of SD 1.x, 2.x or SDXL")
    if "edm_mean" in names or "edm_vpred.sigma_max" in names:
        raise RecipeError(f"{file} was trained with the noise process of EDM, which dbrun does not train",
                          fix="choose another base")
    channels = int(header.tensors[FIRST_CONVOLUTION]["shape"][1])
    if channels != LATENT_CHANNELS:
        title = OTHER_UNETS.get(channels, f"no text-to-image base: its UNet takes {channels} channels")
        raise RecipeError(f"{file} is {title}", fix="choose a base that draws pictures from text alone")
    if any(name.startswith("conditioner.embedders.0.model.") for name in names):
        raise RecipeError(f"{file} is an SDXL refiner: it only finishes pictures that another base has begun",
                          fix="choose the base that it refines")
    for family, family_layouts in layouts.items():
        for layout in family_layouts:
            if all(text.token_embedding in names for text in layout.text_encoders.values()):
                _check_whole(file, header, layout)
                return family, layout
    raise RecipeError(f"{file} holds a UNet, but no text encoder of SD 1.x, 2.x or SDXL",
                      fix="name a whole checkpoint, with text encoder and VAE")


def _check_whole(file: Path, header: Header, layout: Layout) -> None:
    """Raise RecipeError for a file without an autoencoder, for an unCLIP base, and for quantised weights."""
    if not any(name.startswith(f"{VAE}decoder.") for name in header.tensors):
        raise RecipeError(f"{file} holds no VAE (`{VAE}…`)", fix="name a whole checkpoint, with text encoder and VAE")
    if f"{UNET}label_emb.0.0.weight" in header.tensors and len(layout.text_encoders) == 1:
        raise RecipeError(f"{file} is an unCLIP base: it draws variations of a picture",
                          fix="choose a base that draws pictures from text alone")
    for name, tensor in header.tensors.items():
        if name.startswith(UNET) and tensor["dtype"] not in WEIGHT_DTYPES:
            raise RecipeError(f"{file} holds weights of the type {tensor['dtype']}, such as {name}; allowed: "
                              f"{', '.join(WEIGHT_DTYPES)}", fix="choose the same checkpoint in 16 or 32 bits")


def _context_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Width of the text states that a UNet attends to; None without cross-attention."""
    for name, shape in shapes.items():
        if name.startswith(UNET) and name.endswith(CROSS_ATTENTION):
            return shape[1]
    return None


@dataclass(frozen=True)
class Hints:
    """What a file says of its noise process. prediction: None where it says nothing; zero_snr: whether the last
    timestep has no signal."""

    prediction: PredictionType | None
    zero_snr: bool


MODELSPEC_PREDICTIONS: Mapping[str, PredictionType] = {
    "epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
MODELSPEC_ARCHITECTURES: Mapping[str, PredictionType] = {
    "stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}


def read_hints(header: Header) -> Hints:
    """Hints by marker tensors (`v_pred`, `ztsnr`; NoobAI, ComfyUI) and by the metadata of Stability's ModelSpec."""
    zero_snr = ZERO_SNR_MARK in header.tensors
    if V_PREDICTION_MARK in header.tensors:
        return Hints("v_prediction", zero_snr)
    written = str(header.metadata.get("modelspec.prediction_type", "")).lower()
    architecture = str(header.metadata.get("modelspec.architecture", "")).partition("/")[0]
    prediction = MODELSPEC_PREDICTIONS.get(written) or MODELSPEC_ARCHITECTURES.get(architecture)
    return Hints(prediction, zero_snr)


def scheduler_config(folder: Path, prediction: PredictionType, zero_snr: bool) -> dict[str, Any]:
    """Scheduler config of a base of one file. folder: of configs in diffusers format."""
    config = {**read_config(folder / "scheduler" / "scheduler_config.json"), "prediction_type": prediction}
    if zero_snr:
        # sampling then has to start at the very last timestep (Lin et al. 2023, arXiv:2305.08891, section 3.3)
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config
