"""What do the pictures and prompts look like to the denoiser? The stage `preprocess`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.families.base import Family, Loaded
from dbrun.images.pixels import square
from dbrun.recipe.model import Images, Recipe, in_turn
from dbrun.stages.arithmetic import base_in_memory
from dbrun.stages.base import Artifact, Job, Picture, Sources, Stage
from dbrun.stages.contents import contents
from dbrun.stages.generate_priors import RECORD
from dbrun.stages.ranks import spread

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Base = Callable[[], tuple[Family, Loaded]]


@dataclass(frozen=True)
class Source:
    """A picture. digest: the sha256 of its file; name: what errors call it; read: gives the file's bytes."""

    digest: str
    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class PreprocessParams:
    """pictures: the instance images; class_prompt: one, those taken in turn, or None; text: are prompts encoded.

    class_pictures: the user's own; prior_target: `base` where the class half shows the instance images.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"class_pictures": (), "prior_target": "images"}
    WORDS: ClassVar[Mapping[str, str]] = {"pictures": "subject.images", "class_prompt": "subject.class_prompt",
                                          "images": "images", "text": "prompts encoded here",
                                          "class_pictures": "prior.images", "prior_target": "prior.target"}

    pictures: tuple[Picture, ...]
    images: Images
    class_prompt: str | tuple[str, ...] | None
    text: bool
    class_pictures: tuple[Picture, ...] = ()
    prior_target: str = "images"


class Preprocess(Stage[PreprocessParams]):
    """Encode each picture and each distinct prompt's condition, every one an item of its own."""

    NAME: ClassVar[str] = "preprocess"
    shared: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load", "generate-priors")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "safetensors",
                                            "pillow", "numpy")
    modules: ClassVar[tuple[str, ...]] = ("dbrun.images.pixels", "dbrun.stages.arithmetic", "dbrun.stages.contents",
                                          "dbrun.training.device", "dbrun.families", "dbrun.stages.ranks")

    def params(self, recipe: Recipe, sources: Sources) -> PreprocessParams:
        """The pictures with their prompts, and how they are cut."""
        prior = recipe.prior
        # the user's own class pictures carry their prompts with them
        class_prompt = recipe.subject.class_prompt if prior and prior.images is None else None
        return PreprocessParams(sources.pictures, recipe.images, class_prompt, not recipe.adapt.prompts_learn,
                                sources.class_pictures, prior.target if prior else "images")

    def run(self, job: Job[PreprocessParams]) -> None:
        """Write latents.safetensors, prompts.safetensors (unless the text encoder trains) and index.json.

        In 32 bits on every device: a VAE in 16 bits overflows, and each picture is encoded only once.
        """
        from safetensors.torch import save_file

        params = job.params
        instance = [p.prompt for p in params.pictures]
        pictures = {f"instance.{i:05d}": _users(job, p) for i, p in enumerate(params.pictures)}
        images, classes = _class_half(job)
        pictures |= {f"class.{i:05d}": source for i, source in enumerate(images)}
        prompts = sorted({*instance, *classes})
        texts = prompts if params.text else []

        @cache
        def base() -> tuple[Family, Loaded]:
            return base_in_memory(job, "fp32")

        makers: list[Callable[[], object]] = [partial(_encoded, job, source, base) for source in pictures.values()]
        makers += [partial(_condition, job, prompt, base) for prompt in texts]
        spread(job, makers, "items")
        if job.ranks.rank:
            return
        tensors: dict[str, dict[str, Tensor]] = {"latents": {}, "prompts": {}}
        for name, source in pictures.items():
            tensors["latents"][name] = _encoded(job, source, base)
        for index, prompt in enumerate(texts):
            tensors["prompts"] |= {f"{index:05d}.{part}": t for part, t in _condition(job, prompt, base).items()}
        for file, named in tensors.items():
            if named:
                save_file(named, job.out / f"{file}.safetensors")
        write_index(job.out, prompts, instance, classes)
        job.progress(len(makers), len(makers), "items")


def write_index(folder: Path, prompts: Sequence[str], instance: Sequence[str], classes: Sequence[str]) -> None:
    """Write index.json: the distinct prompts, and for each picture the number of its prompt."""
    where = {prompt: i for i, prompt in enumerate(prompts)}
    index = {"prompts": list(prompts), "instance": [where[p] for p in instance],
             "class": [where[p] for p in classes]}
    (folder / "index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _users(job: Job[PreprocessParams], picture: Picture) -> Source:
    return Source(picture.digest, job.files[picture.digest].name, lambda: contents(job.files, picture.digest))


def _class_half(job: Job[PreprocessParams]) -> tuple[list[Source], list[str]]:
    """The class images and the prompt of each row of the class half.

    Where the base is the target there are no images: its rows are the instance images under every class prompt.
    """
    params, made = job.params, job.inputs.get("generate-priors")
    prompts = in_turn(params.class_prompt)
    if params.prior_target == "base":
        return [], [prompt for prompt in prompts for _ in params.pictures]
    images = [_users(job, picture) for picture in params.class_pictures] if made is None else _made(made)
    own = [picture.prompt for picture in params.class_pictures]
    return images, own or [prompts[i % len(prompts)] for i in range(len(images))]


def _made(made: Artifact) -> list[Source]:
    """The class images that the base made, in the order of their names."""
    count = json.loads((made.path / RECORD).read_text(encoding="utf-8"))["count"]
    paths = [made.path / f"{index:05d}.png" for index in range(count)]
    return [Source(hashlib.sha256(path.read_bytes()).hexdigest(), f"class image {path.name}", path.read_bytes)
            for path in paths]


def _encoded(job: Job[PreprocessParams], source: Source, base: Base) -> Tensor:
    """What training draws one picture from, encoded alone so that no neighbour can change its bits."""
    from safetensors.torch import load_file, save_file

    images = job.params.images

    def make(folder: Path) -> None:
        import torch

        family, loaded = base()
        picture = square(source.read(), images.resolution, images.background, source.name)
        with torch.inference_mode():
            encoded = family.encode_images(loaded, as_tensor(picture)[None])[0]
        save_file({"moments": encoded.float().cpu().contiguous()}, folder / "moments.safetensors")

    key = {"base": job.inputs["load"].digest, "picture": source.digest, "images": images}
    return load_file(job.items.get(key, make) / "moments.safetensors")["moments"]


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
