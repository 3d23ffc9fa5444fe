"""Pictures and prompts, encoded as the denoiser sees them. The stage `preprocess`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.errors import StageFailed
from dbrun.images.manifest import picture_id
from dbrun.images.pixels import read_crop, read_square
from dbrun.models.base import Model
from dbrun.models.prompt_length import find_truncated, load_tokenizer, may_be_truncated
from dbrun.recipe.schema.images import Images
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import prompt_cycle
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.generate_priors import PRIORS_FILE
from dbrun.stages.load import read_base_record
from dbrun.stages.sources import Artifact, Picture, Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base
from dbrun.stages.support.crops import Crop, crop_settings, crops, write_mask
from dbrun.stages.support.distribute import run_distributed
from dbrun.stages.support.inputs import read_verified
from dbrun.stages.support.prompt_index import PromptIndex
from dbrun.workload import Workload

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

BaseLoader = Callable[[], Model]


@dataclass(frozen=True)
class SubjectClass:
    """The class of one of several subjects. pictures: those shown under its prompts where the base is the target."""

    NEUTRAL: ClassVar[Mapping[str, object]] = {"pictures": ()}

    prompt: str | tuple[str, ...]
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class PreprocessParams:
    """pictures: the instance images; class_prompt: one, those taken in turn, or None; text: are prompts encoded.

    class_pictures: the user's own; prior_target: `base` where the class half shows the instance images; classes:
    where there are several subjects, in place of class_prompt; seed: of what is cut by chance, None where nothing is.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"class_pictures": (), "prior_target": "images", "classes": (),
                                              "seed": None}
    WORDS: ClassVar[Mapping[str, str]] = {"pictures": "subject.images", "class_prompt": "subject.class_prompt",
                                          "images": "images", "text": "prompts encoded here",
                                          "class_pictures": "prior.images", "prior_target": "prior.target",
                                          "classes": "subjects.class_prompt", "seed": "seed"}

    pictures: tuple[Picture, ...]
    images: Images
    class_prompt: str | tuple[str, ...] | None
    text: bool
    class_pictures: tuple[Picture, ...] = ()
    prior_target: str = "images"
    classes: tuple[SubjectClass, ...] = ()
    seed: int | None = None

    @property
    def all_classes(self) -> tuple[SubjectClass, ...]:
        """That of each subject, or the only one's."""
        return self.classes or ((SubjectClass(self.class_prompt, self.pictures),) if self.class_prompt else ())


class Preprocess(Stage[PreprocessParams]):
    """Encode each picture and each distinct prompt's condition, every one an item of its own."""

    NAME: ClassVar[str] = "preprocess"
    multi_process: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load", "generate-priors")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "safetensors",
                                            "pillow", "numpy")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.images.buckets", "dbrun.images.manifest", "dbrun.images.masks", "dbrun.images.pixels", "dbrun.models",
        "dbrun.seeds", "dbrun.stages.support.base_loading", "dbrun.stages.support.crops",
        "dbrun.stages.support.distribute", "dbrun.stages.support.inputs", "dbrun.stages.support.prompt_index",
        "dbrun.training.device")

    def params(self, recipe: Recipe, sources: Sources) -> PreprocessParams:
        """The pictures with their prompts, and how they are cut."""
        target = recipe.prior.target if recipe.prior else "images"
        # the user's own class pictures carry their prompts with them
        classes = tuple(SubjectClass(one.class_prompt, pictures) for one, pictures in zip(
            recipe.subjects_by_key.values(), sources.pictures_by_subject or (sources.pictures,), strict=True)
                        if one.class_prompt
        ) if target == "base" else tuple(map(SubjectClass, recipe.generated_class_prompts))
        several = len(recipe.subjects_by_key) > 1
        return PreprocessParams(
            sources.pictures, recipe.images, classes[0].prompt if classes and not several else None,
            not recipe.adapt.trains_text_encoders, sources.class_pictures, target, classes if several else (),
            recipe.seed if recipe.images.crop == "random" else None)

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """Views of so many pixels, one in memory at a time, and prompts."""
        params = self.params(recipe, sources)
        pixels, made = params.images.resolution**2, recipe.prior.generated_count if recipe.prior else 0
        given = len(params.pictures) + len(params.class_pictures) + made * len(recipe.generated_class_prompts)
        views = given * max(1, params.images.random_crops) * (2 if params.images.flip else 1)
        own = {text for picture in (*params.pictures, *params.class_pictures)
               for text in (picture.prompt, *picture.variants)}
        prompts = len(own.union(*(prompt_cycle(one.prompt) for one in params.all_classes))) if params.text else 0
        return Workload(views + prompts, pixels, (pixels,),
                        {"prompts.safetensors": prompts, ".safetensors": views * pixels}, (f"prompts {params.text}",))

    def max_disk_bytes(self, ctx: StageContext[PreprocessParams]) -> int:
        """What is encoded of every view of each picture and of each prompt, as an item and in the result."""
        family, images = read_base_record(ctx.inputs["load"]).family, ctx.params.images
        given, index = _class_pictures(ctx)
        crops_each = max(1, images.random_crops) * (2 if images.flip else 1)
        views = (len(ctx.params.pictures) + len(given)) * crops_each
        view = images.resolution**2 * (family.encoded_bytes_per_pixel + cost.FLOAT32_BYTES) + 2**14
        return int(2 * (views * view
                        + len(index.prompts) * (family.encoded_bytes_per_prompt + 2**14))) + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[PreprocessParams]) -> None:
        """Write latents.safetensors, prompts.safetensors (unless the text encoder trains) and index.json.

        Also masks.safetensors, where pictures have masks, of the latents' names, heights and widths. In 32 bits on
        every device: a VAE in 16 bits overflows, and each picture is encoded only once.
        """
        from safetensors.torch import save_file

        params = ctx.params
        alpha = params.images.masks == "alpha"
        instance = [_user_picture(ctx, picture_id("instance", number), picture, alpha=alpha)
                    for number, picture in enumerate(params.pictures)]
        classes, index = _class_pictures(ctx)
        texts = index.prompts if params.text else ()
        shown = _all_crops(ctx, [*instance, *classes])

        @cache
        def base() -> Model:
            return load_base(ctx, "fp32")

        makers: list[Callable[[], object]] = [partial(_encode_crop, ctx, crop, base) for crop in shown]
        makers += [partial(_encode_prompt, ctx, prompt, base) for prompt in texts]
        run_distributed(ctx, makers, "items")
        if ctx.process_group.rank:
            return
        tensors: dict[str, dict[str, Tensor]] = {"latents": {}, "prompts": {}, "masks": {}}
        for crop in shown:
            latents = _encode_crop(ctx, crop, base)
            tensors["latents"][crop.name] = latents
            mask = _crop_mask(ctx, crop, latents)
            if mask is not None:
                tensors["masks"][crop.name] = mask
        for number, prompt in enumerate(texts):
            condition = _encode_prompt(ctx, prompt, base)
            tensors["prompts"] |= {f"{number:05d}.{name}": tensor for name, tensor in condition.items()}
        for file, named in tensors.items():
            if named:
                save_file(named, ctx.out / f"{file}.safetensors")
        index.write(ctx.out)
        _warn_truncated(ctx, texts)
        ctx.progress(len(makers), len(makers), "items")


def _warn_truncated(ctx: StageContext[PreprocessParams], prompts: Sequence[str]) -> None:
    """Name the prompts of which the base reads only a part, and what it does not read."""
    assert ctx.base is not None
    family = read_base_record(ctx.inputs["load"]).family
    limit = family.max_prompt_tokens(ctx.base)
    long = [prompt for prompt in map(family.normalize_prompt, prompts) if may_be_truncated(prompt, limit)]
    if not long:
        return
    tokenizer = load_tokenizer(ctx.base)
    if tokenizer is None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(ctx.base / "tokenizer", local_files_only=True,
                                                  trust_remote_code=False).backend_tokenizer
    for cut in find_truncated(tokenizer, long, limit):
        ctx.note(cut.message(limit), level="warning")


def _user_picture(ctx: StageContext[PreprocessParams], name: str, picture: Picture, *, alpha: bool = False) -> Crop:
    """A picture of the user, before it is cut. alpha: whether its own transparency is its mask."""
    return Crop(name, picture.digest, ctx.files[picture.digest].name,
                lambda: read_verified(ctx.files, picture.digest), picture.size, mask=picture.mask,
                alpha=alpha and picture.mask is None, reader=picture.reader)


def _all_crops(ctx: StageContext[PreprocessParams], pictures: Sequence[Crop]) -> list[Crop]:
    """Every crop of every picture."""
    def multiple() -> int:
        if ctx.base is None:
            raise StageFailed("the base's files are gone", fix="run again with `--force load`")
        return read_base_record(ctx.inputs["load"]).family.resolution_multiple(ctx.base)

    images = ctx.params.images
    settings = crop_settings(images, multiple, ctx.params.seed or 0)
    return [crop for picture in pictures for crop in crops(picture, settings, images.resolution)]


def _class_pictures(ctx: StageContext[PreprocessParams]) -> tuple[list[Crop], PromptIndex]:
    """The class images before they are cut, and the prompts of all pictures.

    Where the base is the target there are no images: its rows are the instance images under every class prompt.
    """
    params, made = ctx.params, ctx.inputs.get("generate-priors")
    if params.prior_target == "base":
        return [], _shared_index(params)
    pictures = _generated_pictures(made) if made is not None else []
    prompts: list[str] = []
    if params.all_classes:
        count = len(pictures) // len(params.all_classes)
        for one in params.all_classes:
            turn = prompt_cycle(one.prompt)
            prompts += [turn[i % len(turn)] for i in range(count)]
    # the user's own come after those that the base made, and are numbered on
    for picture in params.class_pictures:
        pictures.append(_user_picture(ctx, picture_id("class", len(pictures)), picture))
        prompts.append(picture.prompt)
    return pictures, PromptIndex.build(params.pictures, prompts)


def _shared_index(params: PreprocessParams) -> PromptIndex:
    """The index where the class half shows the instance images, each under every prompt of its class."""
    numbers = {picture: number for number, picture in enumerate(params.pictures)}
    prompts: list[str] = []
    shows: list[int] = []
    for one in params.all_classes:
        for prompt in prompt_cycle(one.prompt):
            prompts += [prompt] * len(one.pictures)
            shows += [numbers[picture] for picture in one.pictures]
    # of a single subject the index has no list: its rows show all the pictures in turn
    return PromptIndex.build(params.pictures, prompts, shows if params.classes else ())


def _generated_pictures(made: Artifact) -> list[Crop]:
    """The class images that the base made, in the order of their names."""
    count = json.loads((made.path / PRIORS_FILE).read_text(encoding="utf-8"))["count"]
    pictures: list[Crop] = []
    for number in range(count):
        path = made.path / f"{number:05d}.png"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        pictures.append(Crop(picture_id("class", number), digest, f"class image {path.name}", path.read_bytes))
    return pictures


def _encode_crop(ctx: StageContext[PreprocessParams], crop: Crop, base: BaseLoader) -> Tensor:
    """What training draws one crop of a picture from, encoded alone so that no neighbour can change its bits."""
    from safetensors.torch import load_file, save_file

    images = ctx.params.images

    def make(folder: Path) -> None:
        import torch

        model = base()
        if crop.frame is None or crop.size is None:
            picture = read_square(crop.read(), images.resolution, images.background, crop.label)
        else:
            picture = read_crop(crop.read(), crop.frame, crop.size, images.background, crop.label)
        with torch.inference_mode():
            encoded = model.encode_images(as_tensor(picture)[None])[0]
        save_file({"moments": encoded.float().cpu().contiguous()}, folder / "moments.safetensors")

    # of `images` only what every crop has: another shape or crop is another frame, and a mask hides no pixel
    common = Images(resolution=images.resolution, background=images.background)
    key = {"base": ctx.inputs["load"].digest, "picture": crop.digest, "images": common, **crop.key()}
    return load_file(ctx.items.get(key, make) / "moments.safetensors")["moments"]


def _crop_mask(ctx: StageContext[PreprocessParams], crop: Crop, latents: Tensor) -> Tensor | None:
    """How much of each place of a crop's latents is to be learnt, float32 [h, w] in [0, 1]; None for all of it."""
    from safetensors.torch import load_file

    if crop.mask is None and not crop.alpha:
        return None
    digest = crop.mask or crop.digest
    file = None if crop.alpha else partial(read_verified, ctx.files, digest)
    side = ctx.params.images.resolution
    height, width = latents.shape[-2:]
    key = {"mask": digest, "alpha": crop.alpha, "side": side, "cells": [width, height], **crop.key()}
    item = ctx.items.get(key, lambda folder: write_mask(crop, file, side, (width, height), folder))
    return load_file(item / "mask.safetensors")["mask"]


def _encode_prompt(ctx: StageContext[PreprocessParams], prompt: str, base: BaseLoader) -> Mapping[str, Tensor]:
    """One prompt's condition, encoded alone."""
    from safetensors.torch import load_file, save_file

    def make(folder: Path) -> None:
        import torch

        model = base()
        with torch.inference_mode():
            condition = model.encode_prompts([prompt])[0]
        save_file({name: tensor.cpu().contiguous() for name, tensor in condition.items()},
                  folder / "condition.safetensors")

    key = {"base": ctx.inputs["load"].digest, "prompt": prompt}
    return load_file(ctx.items.get(key, make) / "condition.safetensors")


def as_tensor(picture: Image) -> Tensor:
    """RGB bytes as float32 [3, H, W] in [-1, 1]."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1.0
