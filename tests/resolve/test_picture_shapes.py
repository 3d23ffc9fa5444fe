"""Does a plan say which shapes pictures get and what is cut off, and refuse sides and masks that do not fit?"""

import pytest
from fake_base import fake_base
from PIL import Image

from dbrun.errors import RecipeError
from dbrun.images import masks as masking
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.store import digests
from dbrun.store.store import Store

RECIPE = """\
schema: dbrun/v1
name: x
base: {path: base}
subject: {images: photos, instance_prompt: a photo of sks dog}
images: {resolution: 128}
adapt: {denoiser: {type: lora}}
"""
SIZES = {"wide": (160, 96), "tall": (96, 160), "square": (100, 100), "long": (900, 100)}


@pytest.fixture
def home(tmp_path):
    fake_base(tmp_path / "base")
    (tmp_path / "photos").mkdir()
    for name, size in SIZES.items():
        Image.effect_noise(size, 80).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def find(home, *overrides, store=None):
    return resolve_sources(load_recipe(home / "r.yaml", overrides), store or Store(home / "store"))


def told(home, *overrides) -> str:
    return "\n".join(note.text for note in find(home, *overrides).notes)


def mask(home, name: str, size: tuple[int, int] | None = None, white: int = 255) -> None:
    Image.new("L", size or SIZES[name], white).save(home / "photos" / f"{name}.mask.png")


def test_buckets_are_told_with_what_is_cut_off(home):
    said = told(home, "images.buckets={step: 16}")
    assert "buckets: 1 of 96×160, 1 of 128×128, 1 of 160×96, 1 of 256×64; none is dropped" in said
    assert "at most 56% of a picture is cut off (long.png)" in said
    assert "long.png loses 25% or more" in said and said.count("buckets:") == 1


def test_a_square_is_told_what_it_cuts_only_where_it_is_asked_for_more(home):
    assert "cut off" not in told(home)
    assert "at most 89% of a picture is cut off (long.png)" in told(home, "images.flip=true")


def test_sizes_are_known_only_where_they_count(home):
    assert {p.size for p in find(home).sources.pictures} == {None}
    assert {p.size for p in find(home, "images.crop=random").sources.pictures} == set(SIZES.values())


def test_every_picture_of_a_subject_is_repeated_as_it_says(home):
    assert {p.repeats for p in find(home).sources.pictures} == {1}
    assert {p.repeats for p in find(home, "subject.repeats=3").sources.pictures} == {3}


def test_a_step_that_the_base_does_not_take_is_refused(home):
    with pytest.raises(RecipeError, match=r"images\.buckets\.step: found 4, allowed for this base: multiples of 16"):
        find(home, "images.buckets={step: 4}")


def test_masks_are_used_only_where_they_are_asked_for(home):
    mask(home, "wide")
    assert "wide.mask.png: masks are ignored" in told(home)
    assert len(find(home).sources.pictures) == 4
    found = find(home, "images.masks=files")
    with_mask = [p for p in found.sources.pictures if p.mask]
    assert len(with_mask) == 1 and found.files[with_mask[0].mask].name == "wide.mask.png"
    assert "long.png and 2 more: no mask, so the whole picture counts" in told(home, "images.masks=files")


def test_every_mask_that_cannot_be_used_is_told(home):
    mask(home, "wide", white=0)
    mask(home, "tall", (20, 20))
    with pytest.raises(RecipeError) as caught:
        find(home, "images.masks=files")
    assert "wide.mask.png masks everything" in str(caught.value) and "found 20×20 pixels" in str(caught.value)


@pytest.mark.parametrize(("masks", "words"), [
    ("files", r"images\.masks: found 'files', but no picture has a mask: NAME\.mask\.png or NAME-masklabel\.png"),
    ("alpha", r"images\.masks: found 'alpha', but no picture is transparent")])
def test_masks_that_no_picture_has_are_refused(home, masks: str, words: str):
    with pytest.raises(RecipeError, match=words):
        find(home, f"images.masks={masks}")


def test_pictures_that_are_not_transparent_are_told(home):
    half = Image.new("RGBA", (40, 40), (200, 30, 30, 0))
    half.paste((200, 30, 30, 255), (0, 0, 40, 20))
    half.save(home / "photos" / "cutout.png")
    assert "long.png and 3 more: not transparent, so the whole picture counts" in told(home, "images.masks=alpha")
    assert "not transparent" not in told(home)


def test_a_picture_that_is_transparent_all_over_has_no_mask(home):
    Image.new("RGBA", (40, 40), (200, 30, 30, 0)).save(home / "photos" / "ghost.png")
    find(home)
    with pytest.raises(RecipeError, match=r"ghost\.png masks everything"):
        find(home, "images.masks=alpha")


def test_a_known_mask_is_not_read_again(home, monkeypatch):
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -60.0)
    mask(home, "wide")
    store = Store(home / "store")
    store.prepare()
    find(home, "images.masks=files", store=store)
    calls = []
    monkeypatch.setattr(masking, "read_mask", lambda *words: calls.append(words))
    find(home, "images.masks=files", store=Store(home / "store"))
    assert calls == []


def test_a_resolution_far_from_the_base_s_own_is_told(home):
    """The fake base is made for 64 pixels."""
    def told(side: int) -> list[str]:
        return [note.text for note in find(home, f"images.resolution={side}", "images.buckets=null").notes
                if note.stage == "base" and note.level == "warning"]

    assert told(64) == told(112) == told(48) == []
    assert told(512) == ["`images.resolution` is 512, and this base was made for pictures of 64: "
                         "its pictures will be poor; a step takes 64 times as long"]
    assert "made for pictures of 64: its pictures will be poor" in told(32)[0] and "times" not in told(32)[0]
