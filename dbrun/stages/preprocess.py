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
from dbrun.images.pixels import framed, square
from dbrun.models.base import Family, Loaded
from dbrun.models.prompt_length import cuts, may_be_cut, tokenizer_of
from dbrun.recipe.schema.images import Images
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import in_turn
from dbrun.stages.base import Artifact, Job, Picture, Sources, Stage
from dbrun.stages.generate_priors import RECORD
from dbrun.stages.load import read_base
from dbrun.stages.support import cost
from dbrun.stages.support.amounts import Amounts
from dbrun.stages.support.arithmetic import base_in_memory
from dbrun.stages.support.crops import Source, View, cutting, views, write_mask
from dbrun.stages.support.inputs import contents
from dbrun.stages.support.process_group import spread
from dbrun.stages.support.prompt_index import Index

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Base = Callable[[], tuple[Family, Loaded]]


@dataclass(frozen=True)
class Class:
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
    classes: tuple[Class, ...] = ()
    seed: int | None = None

    @property
    def every_class(self) -> tuple[Class, ...]:
        """That of each subject, or the only one's."""
        return self.classes or ((Class(self.class_prompt, self.pictures),) if self.class_prompt else ())


class Preprocess(Stage[PreprocessParams]):
    """Encode each picture and each distinct prompt's condition, every one an item of its own."""

    NAME: ClassVar[str] = "preprocess"
    shared: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load", "generate-priors")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "safetensors",
                                            "pillow", "numpy")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.images.buckets", "dbrun.images.masks", "dbrun.images.pixels", "dbrun.models", "dbrun.seeds",
        "dbrun.stages.support.arithmetic", "dbrun.stages.support.crops", "dbrun.stages.support.inputs",
        "dbrun.stages.support.process_group", "dbrun.stages.support.prompt_index", "dbrun.training.device")

    def params(self, recipe: Recipe, sources: Sources) -> PreprocessParams:
        """The pictures with their prompts, and how they are cut."""
        target = recipe.prior.target if recipe.prior else "images"
        # the user's own class pictures carry their prompts with them
        classes = tuple(Class(one.class_prompt, pictures) for one, pictures in zip(
            recipe.taught.values(), sources.of_subjects or (sources.pictures,), strict=True) if one.class_prompt
        ) if target == "base" else tuple(map(Class, recipe.made_classes))
        several = len(recipe.taught) > 1
        return PreprocessParams(
            sources.pictures, recipe.images, classes[0].prompt if classes and not several else None,
            not recipe.adapt.prompts_learn, sources.class_pictures, target, classes if several else (),
            recipe.seed if recipe.images.crop == "random" else None)

    def amounts(self, recipe: Recipe, sources: Sources) -> Amounts:
        """Views of so many pixels, one in memory at a time, and prompts."""
        params = self.params(recipe, sources)
        pixels, made = params.images.resolution**2, recipe.prior.made if recipe.prior else 0
        given = len(params.pictures) + len(params.class_pictures) + made * len(recipe.made_classes)
        views = given * max(1, params.images.random_crops) * (2 if params.images.flip else 1)
        own = {text for picture in (*params.pictures, *params.class_pictures)
               for text in (picture.prompt, *picture.variants)}
        prompts = len(own.union(*(in_turn(one.prompt) for one in params.every_class))) if params.text else 0
        return Amounts(views + prompts, pixels, (pixels,),
                       {"prompts.safetensors": prompts, ".safetensors": views * pixels}, (f"prompts {params.text}",))

    def room(self, job: Job[PreprocessParams]) -> int:
        """What is encoded of every view of each picture and of each prompt, as an item and in the result."""
        family, images = read_base(job.inputs["load"]).family, job.params.images
        given, prompts = _class_half(job)
        views = (len(job.params.pictures) + len(given)) * max(1, images.random_crops) * (2 if images.flip else 1)
        view = images.resolution**2 * (family.pixel_bytes + cost.FLOAT) + 2**14
        return int(2 * (views * view + len(prompts.prompts) * (family.prompt_bytes + 2**14))) + cost.MARGIN

    def run(self, job: Job[PreprocessParams]) -> None:
        """Write latents.safetensors, prompts.safetensors (unless the text encoder trains) and index.json.

        Also masks.safetensors, where pictures have masks, of the latents' names, heights and widths. In 32 bits on
        every device: a VAE in 16 bits overflows, and each picture is encoded only once.
        """
        from safetensors.torch import save_file

        params = job.params
        pictures = {f"instance.{i:05d}": _users(job, p) for i, p in enumerate(params.pictures)}
        images, index = _class_half(job)
        pictures |= {f"class.{i:05d}": source for i, source in enumerate(images)}
        texts = index.prompts if params.text else ()
        shown = _views(job, pictures)

        @cache
        def base() -> tuple[Family, Loaded]:
            return base_in_memory(job, "fp32")

        makers: list[Callable[[], object]] = [partial(_encoded, job, view, base) for view in shown]
        makers += [partial(_condition, job, prompt, base) for prompt in texts]
        spread(job, makers, "items")
        if job.ranks.rank:
            return
        tensors: dict[str, dict[str, Tensor]] = {"latents": {}, "prompts": {}, "masks": {}}
        for view in shown:
            tensors["latents"][view.name] = latents = _encoded(job, view, base)
            if (mask := _mask(job, view, latents)) is not None:
                tensors["masks"][view.name] = mask
        for number, prompt in enumerate(texts):
            tensors["prompts"] |= {f"{number:05d}.{part}": t for part, t in _condition(job, prompt, base).items()}
        for file, named in tensors.items():
            if named:
                save_file(named, job.out / f"{file}.safetensors")
        index.write(job.out)
        _tell_cuts(job, texts)
        job.progress(len(makers), len(makers), "items")


def _tell_cuts(job: Job[PreprocessParams], prompts: Sequence[str]) -> None:
    """Name the prompts of which the base reads only a part, and what it does not read."""
    assert job.base is not None
    family = read_base(job.inputs["load"]).family
    limit = family.prompt_limit(job.base)
    long = [prompt for prompt in map(family.as_read, prompts) if may_be_cut(prompt, limit)]
    if not long:
        return
    tokenizer = tokenizer_of(job.base)
    if tokenizer is None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(job.base / "tokenizer", local_files_only=True,
                                                  trust_remote_code=False).backend_tokenizer
    for cut in cuts(tokenizer, long, limit):
        job.note(cut.said(limit), level="warning")


def _users(job: Job[PreprocessParams], picture: Picture) -> Source:
    return Source(picture.digest, job.files[picture.digest].name, lambda: contents(job.files, picture.digest),
                  picture.size, picture.mask, picture.reader)


def _views(job: Job[PreprocessParams], pictures: Mapping[str, Source]) -> list[View]:
    """Every view of every picture, by name."""
    def multiple() -> int:
        if job.base is None:
            raise StageFailed("the base's files are gone", fix="run again with `--force load`")
        return read_base(job.inputs["load"]).family.pixel_multiple(job.base)

    images = job.params.images
    cut = cutting(images, multiple, job.params.seed or 0)
    return [view for name, source in pictures.items() for view in views(name, source, cut, images.resolution)]


def _class_half(job: Job[PreprocessParams]) -> tuple[list[Source], Index]:
    """The class images, and who has which prompt.

    Where the base is the target there are no images: its rows are the instance images under every class prompt.
    """
    params, made = job.params, job.inputs.get("generate-priors")
    if params.prior_target == "base":
        where = {picture: number for number, picture in enumerate(params.pictures)}
        rows = [(prompt, where[picture]) for one in params.every_class for prompt in in_turn(one.prompt)
                for picture in one.pictures]
        return [], Index.of(params.pictures, [prompt for prompt, _ in rows],
                            [number for _, number in rows] if params.classes else ())
    images = _made(made) if made is not None else []
    turns = [in_turn(one.prompt) for one in params.every_class]
    prompts = [turn[i % len(turn)] for turn in turns for i in range(len(images) // len(turns))]
    return ([*images, *(_users(job, picture) for picture in params.class_pictures)],
            Index.of(params.pictures, [*prompts, *(picture.prompt for picture in params.class_pictures)]))


def _made(made: Artifact) -> list[Source]:
    """The class images that the base made, in the order of their names."""
    count = json.loads((made.path / RECORD).read_text(encoding="utf-8"))["count"]
    paths = [made.path / f"{index:05d}.png" for index in range(count)]
    return [Source(hashlib.sha256(path.read_bytes()).hexdigest(), f"class image {path.name}", path.read_bytes)
            for path in paths]


def _encoded(job: Job[PreprocessParams], view: View, base: Base) -> Tensor:
    """What training draws one view of a picture from, encoded alone so that no neighbour can change its bits."""
    from safetensors.torch import load_file, save_file

    images, source = job.params.images, view.source

    def make(folder: Path) -> None:
        import torch

        family, loaded = base()
        if view.frame is None or source.size is None:
            picture = square(source.read(), images.resolution, images.background, source.name)
        else:
            picture = framed(source.read(), view.frame, source.size, images.background, source.name)
        with torch.inference_mode():
            encoded = family.encode_images(loaded, as_tensor(picture)[None])[0]
        save_file({"moments": encoded.float().cpu().contiguous()}, folder / "moments.safetensors")

    # of `images` only what every view has: another shape or crop is another frame, and a mask hides no pixel
    common = Images(resolution=images.resolution, background=images.background)
    key = {"base": job.inputs["load"].digest, "picture": source.digest, "images": common, **view.key()}
    return load_file(job.items.get(key, make) / "moments.safetensors")["moments"]


def _mask(job: Job[PreprocessParams], view: View, latents: Tensor) -> Tensor | None:
    """How much of each place of a view's latents is to be learnt; None for all of it."""
    from safetensors.torch import load_file

    images, source, (height, width) = job.params.images, view.source, latents.shape[-2:]
    digest = source.mask or source.digest
    if source.mask is None and (images.masks != "alpha" or view.name.startswith("class.")):
        return None
    file = None if source.mask is None else lambda: contents(job.files, digest)
    key = {"mask": digest, "alpha": source.mask is None, "side": images.resolution, "cells": [width, height],
           **view.key()}
    item = job.items.get(key, lambda folder: write_mask(view, file, images.resolution, (width, height), folder))
    return load_file(item / "mask.safetensors")["mask"]


def _condition(job: Job[PreprocessParams], prompt: str, base: Base) -> Mapping[str, Tensor]:
    """One prompt's condition, encoded alone."""
    from safetensors.torch import load_file, save_file

    def make(folder: Path) -> None:
        import torch

        family, loaded = base()
        with torch.inference_mode():
            condition = family.encode_prompts(loaded, [prompt])[0]
        save_file({name: tensor.cpu().contiguous() for name, tensor in condition.items()},
                  folder / "condition.safetensors")

    key = {"base": job.inputs["load"].digest, "prompt": prompt}
    return load_file(job.items.get(key, make) / "condition.safetensors")


def as_tensor(picture: Image) -> Tensor:
    """RGB bytes as float32 [3, H, W] in [-1, 1]."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1.0
