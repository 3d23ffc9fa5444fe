"""Does `plan --pictures` tell of every picture what becomes of it and what is odd about it, and look only once?"""

import json

import pytest
from fake_base import fake_base
from PIL import Image, ImageFilter
from typer.testing import CliRunner, Result

from dbrun.cli.verbs import app_for
from dbrun.images import quality as looking
from dbrun.recipe.load import load_recipe
from dbrun.resolve.picture_crops import draw_crops, pictures_of_rows
from dbrun.resolve.picture_report import picture_rows
from dbrun.resolve.sources import resolve_sources
from dbrun.store import digests
from dbrun.store.store import Store
from dbrun.ui import pictures as sheet_texts

RECIPE = """\
schema: dbrun/v1
name: x
base: {path: base}
subject: {images: photos, instance_prompt: a photo of sks dog}
images: {resolution: 128, buckets: {step: 16}}
adapt: {denoiser: {type: lora}}
"""


def scene(size: tuple[int, int], seed: int = 0) -> Image.Image:
    import numpy as np

    cells = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.NEAREST)


@pytest.fixture
def home(tmp_path, monkeypatch):
    fake_base(tmp_path / "base")
    photos = tmp_path / "photos"
    photos.mkdir()
    scene((320, 192)).save(photos / "wide.png")
    scene((320, 192)).resize((300, 180)).save(photos / "wide_again.jpg", quality=80)
    (photos / "copy.png").write_bytes((photos / "wide.png").read_bytes())
    scene((256, 256), 1).filter(ImageFilter.GaussianBlur(9)).save(photos / "blurred.png")
    Image.new("RGB", (200, 200), (2, 2, 2)).save(photos / "dark.png")
    Image.new("RGB", (200, 200), (1, 1, 1)).save(photos / "darker.png")
    scene((40, 40), 2).save(photos / "small.png")
    scene((1200, 130), 3).save(photos / "strip.png")
    Image.new("L", (40, 40), 255).save(photos / "small.mask.png")
    (photos / "small.txt").write_text("sks dog far away")
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)
    return tmp_path


def rows(home, *overrides, store=None):
    store = store or Store(home / "store")
    loaded = load_recipe(home / "r.yaml", overrides)
    return {row.name: row for row in picture_rows(loaded.recipe, resolve_sources(loaded, store), store)}


def test_each_picture_is_told_with_what_is_odd_about_it(home):
    found = rows(home)
    assert {name: row.odd for name, row in found.items()} == {
        "blurred.png": ("blurred",), "copy.png": (), "dark.png": ("black",), "darker.png": ("black",),
        "small.png": ("tiny: made 3.2 times larger",), "strip.png": ("57% cut off",),
        "wide.png": ("the same picture as copy.png",), "wide_again.jpg": ("nearly the same as copy.png",)}
    wide, small = found["wide.png"], found["small.png"]
    assert (wide.width, wide.height, wide.shape, wide.lost) == (320, 192, (160, 96), 0.0)
    assert (wide.ways, wide.mask) == (1, False)
    assert (small.prompt, wide.prompt) == ("sks dog far away", "a photo of sks dog")


def test_what_the_recipe_asks_for_is_what_the_table_tells(home):
    found = rows(home, "images={buckets: null, crop: random, crops: 3, flip: true, masks: files}")
    assert found["wide.png"].shape == (128, 128) and found["wide.png"].lost == pytest.approx(0.4, abs=0.01)
    assert found["wide.png"].ways == 6 and found["small.png"].ways == 2
    assert [name for name, row in found.items() if row.mask] == ["small.png"]


def test_a_picture_is_looked_at_once(home, monkeypatch):
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -60.0)
    store = Store(home / "store")
    store.prepare()
    first = rows(home, store=store)
    calls = []
    real = looking.measure_quality
    monkeypatch.setattr(looking, "measure_quality", lambda path: calls.append(path.name) or real(path))
    assert rows(home, store=Store(home / "store")) == first and calls == []
    scene((300, 300), 5).save(home / "photos" / "new.png")
    rows(home, store=Store(home / "store"))
    assert calls == ["new.png"]


def dbrun(*words: str) -> Result:
    every = ["plan", "r.yaml", "--pictures", *words]
    return CliRunner().invoke(app_for(every), every)


def test_the_command_shows_a_table_or_json_and_remembers(home):
    shown = dbrun()
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["picture", "pixels", "shape", "cut", "off", "prompt"]
    assert any(line.split()[:3] == ["wide.png", "320×192", "160×96"] for line in lines)
    assert lines[-1] == "8 pictures: 4 of 128×128, 3 of 160×96, 1 of 256×64; 7 with problems"
    data = json.loads(dbrun("--json").stdout)
    assert data["format_version"] == 1 and [p["name"] for p in data["pictures"]] == [
        "blurred.png", "copy.png", "dark.png", "darker.png", "small.png", "strip.png", "wide.png", "wide_again.jpg"]
    assert (home / ".dbrun" / "looks.table").is_file() and not (home / ".dbrun" / "traces").exists()


def test_the_sheet_shows_every_crop_and_fades_what_a_mask_hides(home):
    mask = Image.new("L", (40, 40), 255)
    mask.paste(0, (0, 0, 20, 40))
    mask.save(home / "photos" / "small.mask.png")
    loaded = load_recipe(home / "r.yaml", ["images.masks=files"])
    store = Store(home / "store")
    resolved = resolve_sources(loaded, store)
    rows = picture_rows(loaded.recipe, resolved, store)
    (home / "photos" / "dark.png").unlink()
    shown = list(zip(rows, pictures_of_rows(resolved), strict=True))
    crops = dict(zip([row.name for row in rows], draw_crops(loaded.recipe, resolved, shown), strict=True))
    assert crops["dark.png"] is None, "it has gone"
    assert crops["wide.png"].size == (160, 96) and crops["small.png"].size == (128, 128)
    left, right = crops["small.png"].crop((0, 0, 60, 128)), crops["small.png"].crop((68, 0, 128, 128))
    assert left.convert("HSV").getchannel("S").getextrema() == (0, 0) and left.getextrema()[0][0] > 150
    assert right.convert("HSV").getchannel("S").getextrema()[1] > 100


def test_the_command_writes_the_sheet_and_bounds_it(home, monkeypatch):
    done = dbrun("-o", "sheet.png")
    assert done.exit_code == 0 and "written: sheet.png" in done.stderr and "wide.png" in done.stdout
    whole = Image.open("sheet.png").size
    monkeypatch.setattr(sheet_texts, "MAX_SHEET_PICTURES", 3)
    assert "3 of 8 pictures, the odd ones first" in dbrun("-o", "sheet.png").stderr
    assert Image.open("sheet.png").height < whole[1]
    chosen = sheet_texts.choose_for_sheet([r for r in rows(home).values() if r.name in ("copy.png", "dark.png")] * 2)
    assert chosen == [1, 2, 3], "both odd ones, and one of the others"


def test_a_sheet_that_cannot_be_written_is_told_first(home):
    for words in (["-o", "sheet.jpg"], ["-o", "no/sheet.png"]):
        assert "found -o" in str(dbrun(*words).exception) or "no folder" in str(dbrun(*words).exception)
    alone = ["plan", "r.yaml", "-o", "sheet.png"]
    assert "the sheet of `--pictures`" in str(CliRunner().invoke(app_for(alone), alone).exception)


def test_options_of_stages_are_refused_beside_it(home):
    for option in ("--exit-code", "--until=load"):
        assert dbrun(option).exit_code != 0
