"""What do the pictures and prompts look like to the denoiser? The stage `preprocess`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.errors import StageFailed
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
from dbrun.stages.support.crops import Crop, SourceImage, crop_settings, crops, write_mask
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
        "dbrun.images.buckets", "dbrun.images.masks", "dbrun.images.pixels", "dbrun.models", "dbrun.seeds",
        "dbrun.stages.support.base_loading", "dbrun.stages.support.crops", "dbrun.stages.support.inputs",
        "dbrun.stages.support.distribute", "dbrun.stages.support.prompt_index", "dbrun.training.device")

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
        given, prompts = _class_images(ctx)
        views = (len(ctx.params.pictures) + len(given)) * max(1, images.random_crops) * (2 if images.flip else 1)
        view = images.resolution**2 * (family.encoded_bytes_per_pixel + cost.FLOAT32_BYTES) + 2**14
        return int(2 * (views * view
                        + len(prompts.prompts) * (family.encoded_bytes_per_prompt + 2**14))) + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[PreprocessParams]) -> None:
        """Write latents.safetensors, prompts.safetensors (unless the text encoder trains) and index.json.

        Also masks.safetensors, where pictures have masks, of the latents' names, heights and widths. In 32 bits on
        every device: a VAE in 16 bits overflows, and each picture is encoded only once.
        """
        from safetensors.torch import save_file

        params = ctx.params
        pictures = {f"instance.{i:05d}": _user_image(ctx, p) for i, p in enumerate(params.pictures)}
        images, index = _class_images(ctx)
        pictures |= {f"class.{i:05d}": source for i, source in enumerate(images)}
        texts = index.prompts if params.text else ()
        shown = _all_crops(ctx, pictures)

        @cache
        def base() -> Model:
            return load_base(ctx, "fp32")

        makers: list[Callable[[], object]] = [partial(_encode_crop, ctx, view, base) for view in shown]
        makers += [partial(_encode_prompt, ctx, prompt, base) for prompt in texts]
        run_distributed(ctx, makers, "items")
        if ctx.process_group.rank:
            return
        tensors: dict[str, dict[str, Tensor]] = {"latents": {}, "prompts": {}, "masks": {}}
        for view in shown:
            tensors["latents"][view.name] = latents = _encode_crop(ctx, view, base)
            if (mask := _crop_mask(ctx, view, latents)) is not None:
                tensors["masks"][view.name] = mask
        for number, prompt in enumerate(texts):
            tensors["prompts"] |= {f"{number:05d}.{part}": t for part, t in _encode_prompt(ctx, prompt, base).items()}
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


def _user_image(ctx: StageContext[PreprocessParams], picture: Picture) -> SourceImage:
    return SourceImage(picture.digest, ctx.files[picture.digest].name, lambda: read_verified(ctx.files, picture.digest),
                       picture.size, picture.mask, picture.reader)


def _all_crops(ctx: StageContext[PreprocessParams], pictures: Mapping[str, SourceImage]) -> list[Crop]:
    """Every view of every picture, by name."""
    def multiple() -> int:
        if ctx.base is None:
            raise StageFailed("the base's files are gone", fix="run again with `--force load`")
        return read_base_record(ctx.inputs["load"]).family.resolution_multiple(ctx.base)

    images = ctx.params.images
    cut = crop_settings(images, multiple, ctx.params.seed or 0)
    return [view for name, source in pictures.items() for view in crops(name, source, cut, images.resolution)]


def _class_images(ctx: StageContext[PreprocessParams]) -> tuple[list[SourceImage], PromptIndex]:
    """The class images, and who has which prompt.

    Where the base is the target there are no images: its rows are the instance images under every class prompt.
    """
    params, made = ctx.params, ctx.inputs.get("generate-priors")
    if params.prior_target == "base":
        where = {picture: number for number, picture in enumerate(params.pictures)}
        rows = [(prompt, where[picture]) for one in params.all_classes for prompt in prompt_cycle(one.prompt)
                for picture in one.pictures]
        return [], PromptIndex.build(params.pictures, [prompt for prompt, _ in rows],
                                     [number for _, number in rows] if params.classes else ())
    images = _generated_images(made) if made is not None else []
    turns = [prompt_cycle(one.prompt) for one in params.all_classes]
    prompts = [turn[i % len(turn)] for turn in turns for i in range(len(images) // len(turns))]
    return ([*images, *(_user_image(ctx, picture) for picture in params.class_pictures)],
            PromptIndex.build(params.pictures, [*prompts, *(picture.prompt for picture in params.class_pictures)]))


def _generated_images(made: Artifact) -> list[SourceImage]:
    """The class images that the base made, in the order of their names."""
    count = json.loads((made.path / PRIORS_FILE).read_text(encoding="utf-8"))["count"]
    paths = [made.path / f"{index:05d}.png" for index in range(count)]
    return [SourceImage(hashlib.sha256(path.read_bytes()).hexdigest(), f"class image {path.name}", path.read_bytes)
            for path in paths]


def _encode_crop(ctx: StageContext[PreprocessParams], view: Crop, base: BaseLoader) -> Tensor:
    """What training draws one view of a picture from, encoded alone so that no neighbour can change its bits."""
    from safetensors.torch import load_file, save_file

    images, source = ctx.params.images, view.source

    def make(folder: Path) -> None:
        import torch

        model = base()
        if view.frame is None or source.size is None:
            picture = read_square(source.read(), images.resolution, images.background, source.name)
        else:
            picture = read_crop(source.read(), view.frame, source.size, images.background, source.name)
        with torch.inference_mode():
            encoded = model.encode_images(as_tensor(picture)[None])[0]
        save_file({"moments": encoded.float().cpu().contiguous()}, folder / "moments.safetensors")

    # of `images` only what every view has: another shape or crop is another frame, and a mask hides no pixel
    common = Images(resolution=images.resolution, background=images.background)
    key = {"base": ctx.inputs["load"].digest, "picture": source.digest, "images": common, **view.key()}
    return load_file(ctx.items.get(key, make) / "moments.safetensors")["moments"]


def _crop_mask(ctx: StageContext[PreprocessParams], view: Crop, latents: Tensor) -> Tensor | None:
    """How much of each place of a view's latents is to be learnt; None for all of it."""
    from safetensors.torch import load_file

    images, source, (height, width) = ctx.params.images, view.source, latents.shape[-2:]
    digest = source.mask or source.digest
    if source.mask is None and (images.masks != "alpha" or view.name.startswith("class.")):
        return None
    file = None if source.mask is None else lambda: read_verified(ctx.files, digest)
    key = {"mask": digest, "alpha": source.mask is None, "side": images.resolution, "cells": [width, height],
           **view.key()}
    item = ctx.items.get(key, lambda folder: write_mask(view, file, images.resolution, (width, height), folder))
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
