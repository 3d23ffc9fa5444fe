"""Pictures are known by their contents, screened once, and spoken of by name."""

from dataclasses import replace

import pytest
from PIL import Image

from dbrun.errors import RecipeError
from dbrun.images import validation
from dbrun.resolve import pictures
from dbrun.resolve.pictures import PictureRequest, find_pictures
from dbrun.store import digests
from dbrun.store.store import Store

PROMPT = "a photo of sks dog"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
    return folder


def find(folder, store=None):
    return find_pictures(PictureRequest("subject.images", folder.name, PROMPT), folder.parent,
                         store or Store(folder.parent / "store"))


def test_pictures_stand_in_the_order_of_their_contents(photos):
    found = find(photos)
    assert [p.digest for p in found.pictures] == sorted(found.files) and len(found.files) == 3
    assert {p.prompt for p in found.pictures} == {PROMPT}
    (photos / "0.png").rename(photos / "zz.png")
    assert find(photos).pictures == found.pictures


def test_a_text_beside_a_picture_is_its_prompt(photos):
    (photos / "1.txt").write_text("sks dog on the beach")
    assert sorted(p.prompt for p in find(photos).pictures) == [PROMPT, PROMPT, "sks dog on the beach"]


def test_pictures_without_a_caption_among_others_are_told(photos):
    assert find(photos).notes == ()
    (photos / "1.txt").write_text("sks dog on the beach")
    assert find(photos).notes == ("0.png and 1 more without a caption: there is no 0.txt beside it, "
                                  f"so the prompt is '{PROMPT}'",)


def test_what_is_known_is_not_screened_again(photos, monkeypatch):
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -60.0)
    store = Store(photos.parent / "store")
    store.prepare()
    find(photos, store)
    store.save_caches()
    calls = []
    monkeypatch.setattr(validation, "validate_picture", lambda *asked: calls.append(asked))
    found = find(photos, Store(store.root))
    assert len(found.pictures) == 3 and calls == []


def test_other_rules_screen_again(photos, monkeypatch, tmp_path):
    store = Store(photos.parent / "store")
    find(photos, store)
    (tmp_path / "screen.py").write_text("other rules")
    monkeypatch.setattr(validation, "__file__", str(tmp_path / "screen.py"))
    calls = []
    real = validation.validate_picture
    monkeypatch.setattr(validation, "validate_picture", lambda *asked: calls.append(asked) or real(*asked))
    find(photos, store)
    assert len(calls) == 3


def test_what_was_judged_by_its_file_is_decoded_once_before_a_run(photos, monkeypatch):
    store, real = Store(photos.parent / "store"), validation.validate_picture
    asked = PictureRequest("x", photos.name, PROMPT)
    calls = []
    monkeypatch.setattr(validation, "validate_picture", lambda path, decode: calls.append(decode) or real(path, decode))
    seen = [find_pictures(asked, photos.parent, store, decode) for decode in (False, False, True, True, False)]
    assert calls == [False] * 3 + [True] * 3 and all(found == seen[0] for found in seen)


def test_many_doubles_are_counted(photos):
    for number in range(9):
        (photos / f"again{number}.png").write_bytes((photos / "0.png").read_bytes())
    told = [note for note in find(photos).notes if "same" in note]
    assert len(told) == 6 and told[-1] == "4 more are the same as another"


def test_a_broken_picture_is_told_each_time(photos):
    store = Store(photos.parent / "store")
    data = (photos / "0.png").read_bytes()
    (photos / "0.png").write_bytes(data[: len(data) // 2])
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"0\.png"):
            find(photos, store)


def test_conversions_are_told_by_kind_and_doubles_by_name(photos):
    for name in ("a", "b"):
        Image.new("RGBA", (40, 30), (1, 2, 3, 4)).save(photos / f"{name}.png")
    (photos / "notes.doc").write_text("x")
    notes = find(photos).notes
    assert any(n.startswith("a.png and 1 more: ") for n in notes)
    assert "b.png is the same picture as a.png" in notes
    assert any("notes.doc" in n for n in notes)


def test_embedded_pictures_are_found_by_name_and_only_those(photos):
    store = Store(photos.parent / "store")
    assert len(find_pictures(PictureRequest("x", "embedded:sks_dog", PROMPT), photos, store).pictures) == 5
    for name in ("embedded:nobody", "embedded:../..", "embedded:"):
        with pytest.raises(RecipeError, match="no such subject"):
            find_pictures(PictureRequest("x", name, PROMPT), photos, store)
    with pytest.raises(RecipeError) as caught:
        find_pictures(PictureRequest("x", "embedded:sks_dgo", PROMPT), photos, store)
    assert caught.value.fix is not None and "embedded:sks_dog," in caught.value.fix


def test_what_reads_a_heic_is_part_of_the_picture(photos, monkeypatch):
    """Another version of the package may read other colours; Pillow itself is among the stage's libraries."""
    real = validation.validate_picture
    monkeypatch.setattr(pictures, "installed_version", lambda name: f"{name} 1.8.3".split()[1])
    monkeypatch.setattr(validation, "validate_picture", lambda *asked: replace(real(*asked), kind="HEIF"))
    assert {p.reader for p in find(photos).pictures} == {"pillow-heif 1.8"}
    monkeypatch.undo()
    assert {p.reader for p in find(photos, Store(photos.parent / "other")).pictures} == {None}
