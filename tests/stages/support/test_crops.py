"""Is each picture encoded in the shape, the crops and the mirrored ways that are asked for, and masked as it is cut?"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from safetensors.torch import load_file

from dbrun.errors import RecipeError
from dbrun.images.buckets import CropBox
from dbrun.models.base import families
from dbrun.recipe.schema.images import Images
from dbrun.stages.preprocess import as_tensor
from dbrun.stages.sources import Picture, Sources
from dbrun.store.canonical import to_json_value

BUCKETS = {"resolution": 32, "buckets": {"step": 8}}


@pytest.fixture
def loaded(bench, recipe):
    """A bench with a wide, a tall and a square picture, each knowing its size; `masks`: picture's name -> mask."""
    bench.files.clear()
    bench.sizes = {}
    for name, size in (("wide", (96, 48)), ("tall", (48, 96)), ("square", (48, 48))):
        add(bench, name, size)
    bench.masks = {}
    plain = bench.sources

    def sources(chosen) -> Sources:
        usual = plain(chosen)
        pictures = [Picture(p.digest, p.prompt,
                            size=bench.sizes[p.digest] if chosen.images.needs_picture_size else None,
                            mask=bench.masks.get(p.digest)) for p in usual.pictures if p.digest in bench.sizes]
        return Sources(usual.base, tuple(pictures))
    bench.sources = sources
    bench.run("load", recipe())
    return bench


def add(bench, name: str, size: tuple[int, int]) -> None:
    import hashlib
    from random import Random

    picture = Image.frombytes("RGB", size, Random(name).randbytes(3 * size[0] * size[1]))
    ImageDraw.Draw(picture).rectangle((0, 0, size[0] // 3, size[1] // 3), fill="red")
    path = bench.home / f"{name}.png"
    picture.save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    bench.files[digest], bench.sizes[digest] = path, size


def number(bench, name: str) -> int:
    return sorted(bench.sizes).index(digest(bench, name))


def digest(bench, name: str) -> str:
    return next(d for d, path in bench.files.items() if path.stem == name)


def latents(bench, recipe, images: dict, **changes) -> dict[str, torch.Tensor]:
    out = bench.run("preprocess", recipe(prior=None, images=images, **changes)).path
    return load_file(out / "latents.safetensors")


def by_hand(bench, name: str, size: tuple[int, int], box: tuple[int, int], shape: tuple[int, int],
            mirrored: bool = False) -> torch.Tensor:
    """Encoded here: the picture resized to size, cut from box on."""
    family = families()["sd"]
    base = family.load(bench.base, device=torch.device("cpu"), dtype=torch.float32)
    picture = Image.open(bench.files[digest(bench, name)]).resize(size, Image.Resampling.LANCZOS)
    picture = picture.crop((*box, box[0] + shape[0], box[1] + shape[1]))
    picture = ImageOps.mirror(picture) if mirrored else picture
    with torch.no_grad():
        return base.encode_images(as_tensor(picture)[None])[0]


def test_each_picture_has_the_shape_of_its_bucket(loaded, recipe) -> None:
    found = latents(loaded, recipe, BUCKETS)
    shapes = {name: tuple(found[f"instance.{number(loaded, name):05d}"].shape[1:])
              for name in ("wide", "tall", "square")}
    assert shapes == {"wide": (6, 10), "tall": (10, 6), "square": (8, 8)}, "24×40 pixels are 6×10 cells of 4"
    wide = found[f"instance.{number(loaded, 'wide'):05d}"]
    assert torch.equal(wide, by_hand(loaded, "wide", (48, 24), (4, 0), (40, 24)))


def test_the_bases_own_multiple_is_the_step_where_the_recipe_names_none(loaded, recipe) -> None:
    steps = latents(loaded, recipe, {"resolution": 32, "buckets": {}})
    assert torch.equal(steps[f"instance.{number(loaded, 'wide'):05d}"],
                       latents(loaded, recipe, BUCKETS)[f"instance.{number(loaded, 'wide'):05d}"])


@pytest.mark.parametrize(("limits", "shape"), [({"max_side": 32}, (4, 8)), ({"min_side": 32}, (8, 8)),
                                               ({"max_side": 40}, (6, 10))])
def test_sides_stay_within_their_limits(loaded, recipe, limits, shape) -> None:
    found = latents(loaded, recipe, {"resolution": 32, "buckets": {"step": 8, **limits}})
    assert tuple(found[f"instance.{number(loaded, 'wide'):05d}"].shape[1:]) == shape


def test_what_is_the_middle_square_anyway_is_not_encoded_again(loaded, recipe) -> None:
    latents(loaded, recipe, {"resolution": 32})
    loaded.items.made.clear()
    latents(loaded, recipe, BUCKETS)
    assert len(loaded.items.made) == 2, "the wide and the tall picture"


def test_random_crops_are_encoded_by_their_number_and_more_add_to_them(loaded, recipe) -> None:
    crops = {"resolution": 32, "crop": "random", "crops": 2}
    found = latents(loaded, recipe, crops)
    tall, square = (f"instance.{number(loaded, name):05d}" for name in ("tall", "square"))
    assert {name for name in found if name.startswith(tall)} == {tall, f"{tall}.001"}
    assert {name for name in found if name.startswith(square)} == {square}, "nothing of it can be cut off"
    assert not torch.equal(found[tall], found[f"{tall}.001"])
    loaded.items.made.clear()
    more = latents(loaded, recipe, {**crops, "crops": 3})
    assert all(torch.equal(tensor, more[name]) for name, tensor in found.items())
    assert len(loaded.items.made) == 2, "one more of the wide and of the tall picture"
    other = latents(loaded, recipe, crops, seed=1)
    assert not torch.equal(other[tall], found[tall])


def test_a_flip_encodes_the_mirrored_pixels(loaded, recipe) -> None:
    found = latents(loaded, recipe, {"resolution": 32, "flip": True})
    name = f"instance.{number(loaded, 'wide'):05d}"
    assert torch.equal(found[f"{name}.001"], by_hand(loaded, "wide", (64, 32), (16, 0), (32, 32), mirrored=True))
    assert torch.equal(found[name], latents(loaded, recipe, {"resolution": 32})[name])


def test_without_these_options_the_keys_are_those_of_ever(loaded, recipe) -> None:
    latents(loaded, recipe, {"resolution": 32})
    words = to_json_value(Images(resolution=32, background="#ffffff"))
    assert words == {"resolution": 32, "background": "#ffffff"}
    assert not any("frame" in key for key in loaded.items.made)


def masked(bench, name: str) -> None:
    """Give a picture a mask: its left half."""
    import hashlib

    size = bench.sizes[digest(bench, name)]
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    path = bench.home / f"{name}.mask.png"
    mask.save(path)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    bench.masks[digest(bench, name)], bench.files[content] = content, path


def test_a_mask_lies_over_the_same_cells_as_its_picture(loaded, recipe) -> None:
    masked(loaded, "wide")
    images = {**BUCKETS, "masks": "files", "flip": True}
    out = loaded.run("preprocess", recipe(prior=None, images=images)).path
    masks, name = load_file(out / "masks.safetensors"), f"instance.{number(loaded, 'wide'):05d}"
    assert set(masks) == {name, f"{name}.001"} and masks[name].shape == (6, 10)
    assert torch.equal(masks[name], torch.tensor([1.0] * 5 + [0.0] * 5).expand(6, 10))
    assert torch.equal(masks[f"{name}.001"], masks[name].flip(1))


def test_a_mask_encodes_no_picture_again(loaded, recipe) -> None:
    before = latents(loaded, recipe, BUCKETS)
    loaded.items.made.clear()
    masked(loaded, "wide")
    after = latents(loaded, recipe, {**BUCKETS, "masks": "files"})
    assert len(loaded.items.made) == 1 and "mask" in loaded.items.made[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_transparency_is_a_mask_where_it_is_asked_for(loaded, recipe) -> None:
    picture = Image.new("RGBA", (48, 48), (200, 30, 30, 0))
    picture.paste((200, 30, 30, 255), (0, 0, 48, 24))
    path = loaded.home / "cutout.png"
    picture.save(path)
    import hashlib
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded.files[content], loaded.sizes[content] = path, (48, 48)
    plain = loaded.run("preprocess", recipe(prior=None, images={"resolution": 32})).path
    assert not (plain / "masks.safetensors").exists()
    out = loaded.run("preprocess", recipe(prior=None, images={"resolution": 32, "masks": "alpha"})).path
    masks = load_file(out / "masks.safetensors")
    assert torch.equal(masks[f"instance.{number(loaded, 'cutout'):05d}"][:, 0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert masks[f"instance.{number(loaded, 'wide'):05d}"].unique().tolist() == [1.0]


def test_a_picture_of_another_size_than_was_planned_is_refused(loaded, recipe) -> None:
    loaded.sizes[digest(loaded, "wide")] = (97, 48)
    with pytest.raises(RecipeError, match=r"wide\.png: found 96×48 pixels, expected 97×48"):
        latents(loaded, recipe, BUCKETS)


def test_a_frames_words_in_a_key_tell_every_difference() -> None:
    from dbrun.stages.support.crops import Crop

    frames = [CropBox((64, 32), 0, 0, (32, 32)), CropBox((64, 32), 1, 0, (32, 32)), CropBox((64, 33), 0, 0, (32, 32)),
              CropBox((64, 32), 0, 1, (32, 32)), CropBox((64, 32), 0, 0, (32, 24)),
              CropBox((64, 32), 0, 0, (32, 32), True)]
    whole = Crop("x", "d", "n", Path("n").read_bytes)
    keys = {str(replace(whole, frame=frame, reader=reader).key()) for frame in [None, *frames]
            for reader in (None, "pillow-heif 1.8")}
    assert len(keys) == 14
