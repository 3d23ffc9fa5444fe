"""Encoders of pictures and texts: opened from a folder by transformers' own classes, chosen by `model_type`.

A recipe names an encoder as `embedded`, as a folder or as a Hub id with its commit. Its identity is made of the digests
of `wanted_files`, so the same files are the same encoder, wherever they lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from dbrun.config_types import subclasses
from dbrun.errors import RecipeError, StageFailed
from dbrun.input_file import read_json
from dbrun.models.configs import silence_libraries

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from PIL import Image
    from torch import Tensor, nn

    Pictures = Sequence[Image.Image] | npt.NDArray[np.uint8]
    """Pictures of any sizes, or an array [N, H, W, 3] of 0 to 255."""

EncoderPrecision = Literal["fp32", "bf16"]
"""Number format of an encoder's weights; embeddings are float32 in both."""
Role = Literal["clip", "dino"]
"""Key of a recipe that an encoder is named under."""
CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
WEIGHTS_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
"""Name of one of several files of weights, which WEIGHTS_INDEX lists."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                   "vocab.json", "merges.txt")


class Encoder:
    """An encoder in memory. A subclass in a file of its own is one kind; it is found without being registered.

    NAME: the `model_type` of its config.json. ROLE: the key of a recipe that it may stand under. LABEL: its usual name.
    HAS_TEXTS: whether it also embeds texts. MODEL_CLASS: transformers' class that loads it.
    """

    NAME: ClassVar[str]
    ROLE: ClassVar[Role]
    LABEL: ClassVar[str]
    HAS_TEXTS: ClassVar[bool] = False
    MODEL_CLASS: ClassVar[str]

    def __init__(self, folder: Path, model: nn.Module, device: torch.device) -> None:
        """folder: its files; model: of MODEL_CLASS, on the device."""
        from transformers import AutoImageProcessor

        self.folder, self.model, self.device = folder, model, device
        # always Pillow's: torchvision's antialiasing gives other pixels, so a score would depend on what is installed
        self.processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True,
                                                                 trust_remote_code=False)

    @classmethod
    def open(cls, folder: Path, device: torch.device, precision: EncoderPrecision) -> Self:
        """Load the encoder, and try it on one picture. Raises StageFailed where its files do not fit together."""
        silence_libraries()
        import torch
        import transformers
        from safetensors import SafetensorError

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        model_class = getattr(transformers, cls.MODEL_CLASS)
        try:
            model, info = model_class.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True,
                                                      output_loading_info=True)
            # transformers draws missing weights at random, with a warning only: every score would be noise
            missing = sorted(info["missing_keys"])
            if missing:
                raise StageFailed(f"{folder} lacks {len(missing)} weights of {cls.MODEL_CLASS}, such as {missing[0]}",
                                  fix=REFETCH)
            encoder = cls(folder, model.to(device).eval().requires_grad_(False), device)
            # a preprocessor for another side than the model's is found here, not after all pictures were drawn
            encoder.embed_pictures([_blank_picture()])
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise StageFailed(f"{folder} cannot be loaded as {cls.MODEL_CLASS}: {error}", fix=REFETCH) from error
        return encoder

    @property
    def width(self) -> int:
        """Numbers of an embedding, D."""
        raise NotImplementedError

    def embed_pictures(self, pictures: Pictures) -> Tensor:
        """Embeddings of pictures, float32 [N, D] on the CPU, each of length 1.

        Each picture is encoded by itself, so that its embedding is the same to the bit whatever stands beside it.
        Raises StageFailed for an embedding that is zero or not finite.
        """
        import torch

        with torch.inference_mode():
            rows = [self._unit(self._picture_row(self._pixels(picture))) for picture in pictures]
        return torch.cat([torch.zeros(0, self.width), *rows])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, float32 [N, D] on the CPU, each of length 1; each text is encoded by itself.

        Raises TypeError for an encoder without HAS_TEXTS.
        """
        import torch

        with torch.inference_mode():
            rows = [self._unit(self._text_row(text)) for text in texts]
        return torch.cat([torch.zeros(0, self.width), *rows])

    def _pixels(self, picture: Image.Image | npt.NDArray[np.uint8]) -> Tensor:
        """Pixels [1, 3, H, W] of a picture, resized, cropped and normalised as preprocessor_config.json says."""
        from PIL import Image

        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(picture)
        pixels: Tensor = self.processor(images=[picture.convert("RGB")], return_tensors="pt")["pixel_values"]
        dtype = next(self.model.parameters()).dtype
        return pixels.to(self.device, dtype)

    def _picture_row(self, pixels: Tensor) -> Tensor:
        """Embedding [1, D] of pixels [1, 3, H, W], of any length."""
        raise NotImplementedError

    def _text_row(self, text: str) -> Tensor:
        """Embedding [1, D] of a text, of any length."""
        raise TypeError(f"{self.NAME} embeds no texts")

    def _unit(self, row: Tensor) -> Tensor:
        """An embedding [1, D] divided by its length: float32 on the CPU."""
        row = row.float().cpu()
        length = float(row.norm())
        # not `== 0`: nan is refused as well
        if not 0 < length < float("inf"):
            raise StageFailed(f"the encoder in {self.folder} gave an embedding that is zero or not finite",
                              fix="use fp32 weights, or another encoder")
        unit: Tensor = row / length
        return unit


REFETCH = "fetch the encoder's files again, or name another one"


def _blank_picture() -> Image.Image:
    from PIL import Image

    return Image.new("RGB", (64, 64), (128, 128, 128))


def encoder_types() -> Mapping[str, type[Encoder]]:
    """`model_type` → class of every encoder of this package."""
    return {kind.NAME: kind for kind in subclasses("dbrun.scores", Encoder)}


def read_encoder_type(folder: Path, role: Role | None = None) -> type[Encoder]:
    """Class of the encoder in a folder, read from its config.json; loads no weights and imports no torch.

    role: the key of the recipe that it is named under. Raises RecipeError for a folder without a readable config.json,
    an unknown `model_type`, one of another role, or missing files.
    """
    path = folder / CONFIG_FILE
    try:
        found = read_json(path).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise RecipeError(f"{path} cannot be read as the config of an encoder: {error}",
                          fix=f"name a folder that transformers wrote, of {_allowed(role)}") from error
    kind = encoder_types().get(str(found))
    if kind is None or role not in (None, kind.ROLE):
        raise RecipeError(f"{path}: found model_type {found!r}, expected {_allowed(role)}",
                          fix=f"name an encoder of {_allowed(role)}")
    names = sorted(entry.name for entry in folder.iterdir())
    missing = missing_files(names, kind)
    if missing:
        raise RecipeError(f"{folder} lacks {' and '.join(missing)}, which {kind.LABEL} needs",
                          fix="fetch the whole repository, or save the encoder with `save_pretrained`")
    return kind


def _allowed(role: Role | None) -> str:
    """Allowed values of model_type, such as "'clip' (CLIP) or 'dinov2' (DINOv2)"."""
    kinds = [kind for kind in encoder_types().values() if role in (None, kind.ROLE)]
    return " or ".join(f"{kind.NAME!r} ({kind.LABEL})" for kind in kinds)


def wanted_files(names: Iterable[str]) -> tuple[str, ...]:
    """Files of an encoder among the names of a folder or of a Hub repository, sorted.

    Config, preprocessor, tokenizer and weights as safetensors. They are all that is read, so their digests are the
    encoder's identity. Other weights, subfolders, licences and cards are left out.
    """
    there = set(names)
    wanted = {name for name in (CONFIG_FILE, PREPROCESSOR_FILE, *TOKENIZER_FILES) if name in there}
    # transformers reads the one file where both ways exist
    if WEIGHTS_FILE in there:
        wanted.add(WEIGHTS_FILE)
    elif WEIGHTS_INDEX in there:
        wanted.add(WEIGHTS_INDEX)
        wanted |= {name for name in there if WEIGHTS_SHARD.fullmatch(name)}
    return tuple(sorted(wanted))


def missing_files(names: Iterable[str], kind: type[Encoder]) -> tuple[str, ...]:
    """What an encoder of this kind needs and what is not among the names, in words for people; empty if complete."""
    there = set(names)
    missing = [name for name in (CONFIG_FILE, PREPROCESSOR_FILE) if name not in there]
    if not there & {WEIGHTS_FILE, WEIGHTS_INDEX}:
        missing.append(WEIGHTS_FILE)
    has_tokenizer = "tokenizer.json" in there or {"vocab.json", "merges.txt"} <= there
    if kind.HAS_TEXTS and not has_tokenizer:
        missing.append("tokenizer.json")
    return tuple(missing)


def open_encoder(folder: Path, device: torch.device, precision: EncoderPrecision = "fp32",
                 role: Role | None = None) -> Encoder:
    """Load the encoder in a folder. Raises as `read_encoder_type` and `Encoder.open` do."""
    return read_encoder_type(folder, role).open(folder, device, precision)
