"""Do real photos of several shapes, each with a caption, go through with buckets, crops and flips?"""

import json
from pathlib import Path

import pytest
from PIL import Image
from projects import Project
from safetensors import safe_open

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "dog6"
CAPTIONS = {
    "00": "a photo of sks dog licking its nose, a green plant beside it",
    "01": "a photo of sks dog sitting upright in front of an orange wall",
    "02": "a photo of sks dog looking to the side, orange background",
    "03": "a photo of sks dog with its mouth open, its head tilted",
    "04": "a photo of sks dog in front of a yellow wall",
}
PARTS = {"01": (300, 0, 1000, 1280), "03": (100, 100, 1250, 780), "04": (200, 0, 1000, 1278)}
"""What is cut out of some of the photos, which are squares: two become tall, one wide."""


def lay(folder: Path) -> None:
    folder.mkdir()
    for name, caption in CAPTIONS.items():
        photo = Image.open(PHOTOS / f"{name}.jpg")
        (photo.crop(PARTS[name]) if name in PARTS else photo).save(folder / f"{name}.jpg")
        (folder / f"{name}.txt").write_text(caption)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos are not here")
@pytest.mark.parametrize(("side", "buckets", "until"), [
    (64, "2 of 48×80, 2 of 64×64, 1 of 80×48", "export"),
    pytest.param(128, "1 of 96×160, 1 of 96×168, 2 of 128×128, 1 of 160×96", "train", marks=pytest.mark.slow)])
def test_captioned_photos_go_through_with_buckets(fresh: Project, side: int, buckets: str, until: str) -> None:
    lay(fresh.folder / "dog6")
    done = fresh.dbrun("run", "tiny.yaml", "name=dog6", "subject.images=dog6", "prior.count=1", "train.steps=4",
                       f"images={{resolution: {side}, buckets: {{}}, flip: true}}", "samples.steps=1", "--until", until)
    many = buckets.count("of")
    assert f"buckets: {buckets};" in done.stderr and f"5 pictures in {many} shapes" in done.stderr
    (made,) = (fresh.folder / ".dbrun" / "objects").rglob("latents.safetensors")
    with safe_open(made, "pt") as file:
        shapes = [tuple(file.get_slice(name).get_shape()[1:]) for name in file.keys()]  # noqa: SIM118
    assert len(set(shapes)) == many and len(shapes) == 2 * 5 + 1, "each photo and its mirror image, and a class image"
    prompts = json.loads(next((fresh.folder / ".dbrun" / "objects").rglob("index.json")).read_text())["prompts"]
    assert set(CAPTIONS.values()) < set(prompts)
    if until == "export":
        home = fresh.folder / "outputs" / "dog6"
        assert (home / "pytorch_lora_weights.safetensors").stat().st_size > 0
        assert Image.open(home / "samples" / "adapted" / "00.png").size == (side, side)
