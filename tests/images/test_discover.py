"""Are exactly the pictures of a folder found, with their prompts, and everything else named?"""

from __future__ import annotations

from pathlib import Path

import pytest

from dbrun.errors import RecipeError
from dbrun.images.discover import list_pictures


def fill(folder: Path, **files: bytes | str) -> Path:
    """Write files; `__` in a name stands for a dot."""
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def test_pictures_come_sorted_by_name_with_their_prompts(tmp_path: Path) -> None:
    fill(tmp_path, b__jpg="", a__PNG="", c__webp="", b__txt=" a dog\n on grass \n", d__tiff="", e__gif="")
    found = list_pictures(tmp_path)
    assert [p.path.name for p in found.pictures] == ["a.PNG", "b.jpg", "c.webp", "d.tiff", "e.gif"]
    assert [p.captions for p in found.pictures] == [(), ("a dog on grass",), (), (), ()]
    assert (found.folder, found.notes) == (tmp_path, ())


def test_what_is_no_picture_is_left_aside_with_a_word(tmp_path: Path) -> None:
    fill(tmp_path, a__jpg="", notes__txt="x", a__jpg__txt="x", b__jp2="", README="", c__mp4="")
    (tmp_path / "more").mkdir()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found = list_pictures(tmp_path)
    assert [p.path.name for p in found.pictures] == ["a.jpg"]
    told = "\n".join(found.notes)
    for words in ("notes.txt is ignored: none of the pictures read here has the same name",
                  "the prompt of a.jpg is named a.txt", "b.jp2 is ignored: .jp2",
                  "README is ignored", "more/ is ignored", "folder.jpg/ is ignored",
                  "gone.png is ignored: it is a broken link", "c.mp4 is ignored"):
        assert words in told
    assert len(found.notes) == 8


def test_what_systems_leave_behind_is_passed_over_silently(tmp_path: Path) -> None:
    found = list_pictures(fill(tmp_path, a__jpg="", __DS_Store="", Thumbs__db="", desktop__ini="", ___a__jpg=""))
    assert ([p.path.name for p in found.pictures], found.notes) == (["a.jpg"], ())


@pytest.mark.parametrize(("content", "words"), [
    (b"", "found an empty file"), (b" \n", "found an empty file"), (b"\xff\xfe", "0xff, expected UTF-8 text"),
    (b"a\x00b", "found the character U+0000 (number 2)"), (b"a " * 20_000, "over 16 KiB"),
])
def test_a_prompt_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(RecipeError, match=r"a\.txt:1: ") as caught:
        list_pictures(fill(tmp_path, a__jpg="", a__txt=content))
    assert words in str(caught.value)


def test_all_bad_prompts_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        list_pictures(fill(tmp_path, a__jpg="", a__txt="", b__png="", b__txt=b"\xff"))
    assert "a.txt" in str(caught.value) and "b.txt" in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    found = list_pictures(fill(tmp_path, a__jpg="", a__txt=b"\xef\xbb\xbfa dog"))
    assert found.pictures[0].captions == ("a dog",)


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no pictures in .*: found nothing, allowed: files that end with \.avif"):
        list_pictures(tmp_path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(RecipeError, match=r"found 2 other names \(\.jp2, folders\)"):
        list_pictures(fill(tmp_path, a__jp2=""))


def test_a_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "my_dog").mkdir()
    with pytest.raises(RecipeError, match=r"no such folder: .*; did you mean '.*my_dog'"):
        list_pictures(tmp_path / "mydog")
    with pytest.raises(RecipeError, match="does not exist either"):
        list_pictures(tmp_path / "no" / "such")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a file, expected a folder"):
        list_pictures(fill(tmp_path, a__jpg="") / "a.jpg")
