"""The stage `preprocess`: encodes the crops of all pictures and all prompts, each cached by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.errors import StageFailed
from dbrun.images.manifest import picture_id
from dbrun.images.pixels import read_crop, read_square
from dbrun.input_file import read_json
from dbrun.models.base import Model, families
from dbrun.models.prompt_encoding import frozen_encoders
from dbrun.options.precision import Precision
from dbrun.recipe.schema.images import Images
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.subject import prompt_cycle
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.generate_priors import PRIORS_FILE
from dbrun.stages.load import read_base_record
from dbrun.stages.sources import Artifact, Picture, Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import encoding_precision, open_for_encoding
from dbrun.stages.support.crops import Crop, crop_settings, crops, write_mask
from dbrun.stages.support.distribute import run_distributed
from dbrun.stages.support.inputs import read_verified
from dbrun.stages.support.memory import CountedMemory
from dbrun.stages.support.memory_advice import precision_advice, resolution_advice
from dbrun.stages.support.memory_phases import preprocess_memory
from dbrun.stages.support.prompt_index import PromptIndex
from dbrun.stages.support.prompt_items import encode_prompt, prompt_items, warn_truncated
from dbrun.workload import Workload

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dbrun.training.dry_run import DryRun

BaseLoader = Callable[[], Model]
"""Gives the base; loads it at the first call, so that a stage whose items are all cached loads nothing."""


@dataclass(frozen=True)
class SubjectClass:
    """The class of one subject.

    prompt: its class prompt, or several that are taken in turn; pictures: the instance images that the class half shows
    where the prior target is `base`.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"pictures": ()}

    prompt: str | tuple[str, ...]
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class PreprocessParams:
    """The params of the stage `preprocess`.

    pictures: the instance images; images: how they are cropped; class_prompt: of a single subject: one, several that
    are taken in turn, or None; text: whether prompts are encoded here, which they are unless a text encoder trains;
    class_pictures: the user's own class images; prior_target: `images` or `base`, under which the class half shows the
    instance images; classes: of several subjects, in place of class_prompt; seed: of random crops, None without any;
    frozen_encoders: where other text encoders train, those whose outputs are stored; deterministic: as in `train`;
    precision: of the text encoders.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"class_pictures": (), "prior_target": "images", "classes": (),
                                              "seed": None, "frozen_encoders": (), "deterministic": False,
                                              "precision": "fp32"}
    WORDS: ClassVar[Mapping[str, str]] = {"pictures": "subject.images", "class_prompt": "subject.class_prompt",
                                          "images": "images", "text": "prompts encoded here",
                                          "class_pictures": "prior.images", "prior_target": "prior.target",
                                          "classes": "subjects.class_prompt", "seed": "seed",
                                          "frozen_encoders": "text encoders that do not train",
                                          "deterministic": "train.deterministic", "precision": "train.precision"}

    pictures: tuple[Picture, ...]
    images: Images
    class_prompt: str | tuple[str, ...] | None
    text: bool
    class_pictures: tuple[Picture, ...] = ()
    prior_target: str = "images"
    classes: tuple[SubjectClass, ...] = ()
    seed: int | None = None
    frozen_encoders: tuple[str, ...] = ()
    deterministic: bool = False
    precision: Precision = "fp32"

    @property
    def all_classes(self) -> tuple[SubjectClass, ...]:
        """The class of each subject that has one, for one subject as for several."""
        if self.classes:
            return self.classes
        if self.class_prompt:
            return (SubjectClass(self.class_prompt, self.pictures),)
        return ()


class Preprocess(Stage[PreprocessParams]):
    """Encodes each crop and each distinct prompt, every one as an item of its own."""

    NAME: ClassVar[str] = "preprocess"
    multi_process: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load", "generate-priors")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "safetensors",
                                            "pillow", "numpy")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.images.buckets", "dbrun.images.manifest", "dbrun.images.masks", "dbrun.images.pixels", "dbrun.models",
        "dbrun.seeds", "dbrun.stages.support.base_loading", "dbrun.stages.support.crops",
        "dbrun.stages.support.distribute", "dbrun.stages.support.inputs", "dbrun.stages.support.prompt_index",
        "dbrun.stages.support.prompt_items", "dbrun.training.device")

    def params(self, recipe: Recipe, sources: Sources) -> PreprocessParams:
        """The pictures with their prompts, and how they are cropped."""
        target = recipe.prior.target if recipe.prior else "images"
        classes = _subject_classes(recipe, sources, target)
        # a single subject keeps the form that it had before there were several, and with it its cache key
        class_prompt = None
        if len(recipe.subjects_by_key) == 1:
            class_prompt = classes[0].prompt if classes else None
            classes = ()
        seed = recipe.seed if recipe.images.crop == "random" else None
        family = families()[recipe.base.type]
        frozen = frozen_encoders(family, recipe.adapt.components)
        text = len(frozen) == len(family.text_encoders)
        return PreprocessParams(
            sources.pictures, recipe.images, class_prompt, text, sources.class_pictures, target, classes, seed,
            () if text else frozen, recipe.train.deterministic, encoding_precision(recipe))

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The number of crops and prompts, and the pixels of a crop; one is in memory at a time."""
        params, pixels = self.params(recipe, sources), recipe.images.resolution**2
        total_crops, prompts = self.count_items(recipe, sources)
        disk = {"prompts.safetensors": prompts, ".safetensors": total_crops * pixels}
        like = (f"prompts {params.text}", *params.frozen_encoders)
        items = total_crops + prompts * max(1, len(params.frozen_encoders))
        return Workload(items, pixels, (pixels,), disk, like)

    def count_memory(self, recipe: Recipe, sources: Sources, dry_run: DryRun) -> CountedMemory:
        """The autoencoder, in 32 bits, for one picture; then the text encoders for one prompt."""
        total_crops, prompts = self.count_items(recipe, sources)
        params = self.params(recipe, sources)
        encoders = params.frozen_encoders or dry_run.family.text_encoders
        return preprocess_memory(dry_run, recipe.images.resolution, total_crops, prompts, encoders, params.precision)

    def memory_advice(self, recipe: Recipe, device: str) -> tuple[str, ...]:
        """Fewer bits for the text encoders on a GPU, or fewer pixels: pictures are encoded one by one, in 32 bits."""
        # as `encoding_precision` decides
        fewer_bits = () if device == "cpu" else precision_advice(recipe)
        return (*fewer_bits, *resolution_advice(recipe))

    def count_items(self, recipe: Recipe, sources: Sources) -> tuple[int, int]:
        """(crops that are encoded, distinct prompts that are encoded here, by all text encoders or some)."""
        params = self.params(recipe, sources)
        generated = 0
        if recipe.prior:
            generated = recipe.prior.generated_count * len(recipe.generated_class_prompts)
        pictures = len(params.pictures) + len(params.class_pictures) + generated
        total_crops = pictures * _crops_per_picture(params.images)

        prompts = 0
        if params.text or params.frozen_encoders:
            texts: set[str] = set()
            for picture in (*params.pictures, *params.class_pictures):
                texts.update((picture.prompt, *picture.variants))
            for one in params.all_classes:
                texts.update(prompt_cycle(one.prompt))
            prompts = len(texts)
        return total_crops, prompts

    def max_disk_bytes(self, ctx: StageContext[PreprocessParams]) -> int:
        """Every encoded crop and prompt twice, as an item and in the result."""
        record, images = read_base_record(ctx.inputs["load"]), ctx.params.images
        class_pictures, index = _class_pictures(ctx)
        total_crops = (len(ctx.params.pictures) + len(class_pictures)) * _crops_per_picture(images)
        # the encoded picture, its mask in 32 bits, and a file's header
        crop_bytes = images.resolution**2 * (record.family.encoded_bytes_per_pixel + cost.FLOAT32_BYTES) + 2**14
        bytes_per_prompt = record.reading.chunks * record.family.encoded_bytes_per_prompt
        prompt_bytes = len(index.prompts) * (bytes_per_prompt + 2**14)
        return int(2 * (total_crops * crop_bytes + prompt_bytes)) + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[PreprocessParams]) -> None:
        """Write latents.safetensors, prompts.safetensors (unless a text encoder trains) and index.json.

        Where other text encoders train, encoder_outputs.safetensors in place of prompts.safetensors.
        Where pictures have masks, also masks.safetensors: crop name -> float32 [h, w] of the latents' height and width.
        Where the denoiser is told sizes, also time_ids.safetensors: crop name -> float32 [6].
        """
        from safetensors.torch import save_file

        params = ctx.params
        alpha = params.images.masks == "alpha"
        instance = [_user_picture(ctx, picture_id("instance", number), picture, alpha=alpha)
                    for number, picture in enumerate(params.pictures)]
        classes, index = _class_pictures(ctx)
        prompts = prompt_items(index.prompts, text=params.text, frozen_encoders=params.frozen_encoders)
        all_crops = _all_crops(ctx, [*instance, *classes])

        base, text_base = open_for_encoding(ctx, params.precision, deterministic=params.deterministic)
        encode = partial(encode_prompt, ctx, base=text_base, precision=params.precision,
                         deterministic=params.deterministic)

        # encode, each process its share
        makers: list[Callable[[], object]] = [partial(_encode_crop, ctx, crop, base) for crop in all_crops]
        makers += [partial(encode, item) for item in prompts]
        run_distributed(ctx, [[make] for make in makers], "items")
        if ctx.process_group.rank:
            return

        # collect: rank 0 finds every item in the cache
        tensors: dict[str, dict[str, Tensor]] = {"latents": {}, "masks": {}, "time_ids": {}}
        encoded = tensors["prompts" if params.text else "encoder_outputs"] = {}
        if read_base_record(ctx.inputs["load"]).family.size_conditioned:
            tensors["time_ids"] = _time_ids(all_crops, params.images.resolution)
        for crop in all_crops:
            latents = _encode_crop(ctx, crop, base)
            tensors["latents"][crop.name] = latents
            mask = _crop_mask(ctx, crop, latents)
            if mask is not None:
                tensors["masks"][crop.name] = mask
        for item in prompts:
            for name, tensor in encode(item).items():
                encoded[f"{item.name}.{name}"] = tensor
        for file, named in tensors.items():
            if named:
                save_file(named, ctx.out / f"{file}.safetensors")
        index.write(ctx.out)
        warn_truncated(ctx, sorted({item.prompt for item in prompts}))
        ctx.progress(len(makers), len(makers), "items")


def _time_ids(all_crops: Sequence[Crop], side: int) -> dict[str, Tensor]:
    """The sizes of each crop by its name, float32 [6]. side: the recipe's resolution."""
    import torch

    return {crop.name: torch.tensor(crop.time_ids(side), dtype=torch.float32) for crop in all_crops}


def _subject_classes(recipe: Recipe, sources: Sources, target: str) -> tuple[SubjectClass, ...]:
    """The classes whose pictures are made here: by the base, or from the instance images where it is the target."""
    # the user's own class pictures are not among them: they carry their prompts with them
    if target != "base":
        return tuple(map(SubjectClass, recipe.generated_class_prompts))
    classes: list[SubjectClass] = []
    pictures_by_subject = sources.pictures_by_subject or (sources.pictures,)
    for subject, pictures in zip(recipe.subjects_by_key.values(), pictures_by_subject, strict=True):
        if subject.class_prompt:
            classes.append(SubjectClass(subject.class_prompt, pictures))
    return tuple(classes)


def _crops_per_picture(images: Images) -> int:
    """The most crops that a picture is encoded in."""
    mirrored = 2 if images.flip else 1
    return max(1, images.random_crops) * mirrored


def _user_picture(ctx: StageContext[PreprocessParams], name: str, picture: Picture, *, alpha: bool = False) -> Crop:
    """A picture of the user, before it is cropped. alpha: whether its transparency is its mask, if it has no file."""
    return Crop(name, picture.digest, ctx.files[picture.digest].name,
                lambda: read_verified(ctx.files, picture.digest), picture.size, mask=picture.mask,
                alpha=alpha and picture.mask is None, reader=picture.reader)


def _all_crops(ctx: StageContext[PreprocessParams], pictures: Sequence[Crop]) -> list[Crop]:
    """Every crop of every picture. Raises StageFailed where the base's folder is needed and gone."""
    def multiple() -> int:
        if ctx.base is None:
            raise StageFailed("the base's files are gone", fix="run again with `--force load`")
        return read_base_record(ctx.inputs["load"]).family.resolution_multiple(ctx.base)

    images = ctx.params.images
    settings = crop_settings(images, multiple, ctx.params.seed or 0)
    all_crops: list[Crop] = []
    for picture in pictures:
        all_crops += crops(picture, settings, images.resolution)
    return all_crops


def _class_pictures(ctx: StageContext[PreprocessParams]) -> tuple[list[Crop], PromptIndex]:
    """The class images before they are cropped, and the prompt index of all pictures."""
    params, generated = ctx.params, ctx.inputs.get("generate-priors")
    # where the base is the target there are no class images: class rows show the instance images
    if params.prior_target == "base":
        return [], _shared_index(params)
    pictures = _generated_pictures(generated) if generated is not None else []
    prompts: list[str] = []
    if params.all_classes:
        # generate-priors draws equally many of each class, class after class
        count = len(pictures) // len(params.all_classes)
        for one in params.all_classes:
            cycle = prompt_cycle(one.prompt)
            prompts += [cycle[i % len(cycle)] for i in range(count)]
    # the user's own class images follow, and their numbers go on
    for picture in params.class_pictures:
        pictures.append(_user_picture(ctx, picture_id("class", len(pictures)), picture))
        prompts.append(picture.prompt)
    return pictures, PromptIndex.build(params.pictures, prompts)


def _shared_index(params: PreprocessParams) -> PromptIndex:
    """The prompt index where the class half shows the instance images, each under every prompt of its class."""
    numbers = {picture: number for number, picture in enumerate(params.pictures)}
    prompts: list[str] = []
    shows: list[int] = []
    for one in params.all_classes:
        for prompt in prompt_cycle(one.prompt):
            prompts += [prompt] * len(one.pictures)
            shows += [numbers[picture] for picture in one.pictures]
    # a single subject needs no list, since its class rows show all pictures in turn; without one the file has the
    # bytes that it had before there were several subjects
    if not params.classes:
        shows = []
    return PromptIndex.build(params.pictures, prompts, shows)


def _generated_pictures(generated: Artifact) -> list[Crop]:
    """The class images in an artifact of `generate-priors`, in the order of their names."""
    count = read_json(generated.path / PRIORS_FILE)["count"]
    pictures: list[Crop] = []
    for number in range(count):
        path = generated.path / f"{number:05d}.png"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        pictures.append(Crop(picture_id("class", number), digest, f"class image {path.name}", path.read_bytes))
    return pictures


def _encode_crop(ctx: StageContext[PreprocessParams], crop: Crop, base: BaseLoader) -> Tensor:
    """The stored latents of one crop, float32 [C, h, w]."""
    from safetensors.torch import load_file, save_file

    images = ctx.params.images

    def make(folder: Path) -> None:
        import torch

        model = base()
        if crop.frame is None or crop.size is None:
            picture = read_square(crop.read(), images.resolution, images.background, crop.label)
        else:
            picture = read_crop(crop.read(), crop.frame, crop.size, images.background, crop.label)
        # alone, never in a batch: neighbours can change its last bits
        pixels = as_tensor(picture)[None]
        with torch.inference_mode():
            encoded = model.encode_images(pixels)[0]
        save_file({"moments": encoded.float().cpu().contiguous()}, folder / "moments.safetensors")

    # of `images` only what changes every crop: shape and place of the crop are in its own key, and a mask hides no
    # pixel from the encoder
    common = Images(resolution=images.resolution, background=images.background)
    key = {"base": ctx.inputs["load"].digest, "picture": crop.digest, "images": common, **crop.key()}
    if ctx.params.deterministic:
        key["deterministic"] = True
    return load_file(ctx.items.get(key, make) / "moments.safetensors")["moments"]


def _crop_mask(ctx: StageContext[PreprocessParams], crop: Crop, latents: Tensor) -> Tensor | None:
    """The loss mask of a crop, float32 [h, w] in [0, 1] with the latents' height and width; None without a mask."""
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


def as_tensor(picture: Image) -> Tensor:
    """An RGB picture as float32 [3, H, W] in [-1, 1]."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1.0
