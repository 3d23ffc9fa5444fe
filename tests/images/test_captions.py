"""Are captions read from metadata, file names and text files as the recipe asks, and bad ones named?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbrun.errors import RecipeError
from dbrun.images.discover import list_pictures
from dbrun.options.captions import Filename, Metadata, PromptOnly, Sidecar

METADATA = Metadata(type="metadata")


def lay(folder: Path, *pictures: str, **texts: str) -> Path:
    """Empty pictures, and texts whose names have `__` for a dot."""
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def rows(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def captions(folder: Path, source: object = METADATA) -> dict[str, tuple[str, ...]]:
    found = list_pictures(folder, captions=source)
    return {p.path.relative_to(found.folder).as_posix(): p.captions for p in found.pictures}


@pytest.mark.parametrize("table", [
    {"metadata__jsonl": rows({"file_name": "b.jpg", "text": " a\n dog "}, {"file_name": "below/c.png", "text": "x"})},
    {"metadata__csv": 'file_name,text\r\nb.jpg,"a  dog"\r\n\r\nbelow/c.png,x\r\n'}])
def test_a_table_names_pictures_also_in_folders_below(tmp_path: Path, table: dict[str, str]) -> None:
    lay(tmp_path, "a.jpg", "b.jpg", "below/c.png", "below/d.png", **table)
    assert captions(tmp_path) == {"a.jpg": (), "b.jpg": ("a dog",), "below/c.png": ("x",)}
    assert list_pictures(tmp_path, captions=METADATA).notes == ()


def test_the_column_may_be_named(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", metadata__jsonl=rows({"file_name": "a.jpg", "de": "Hund", "caption": "dog"}))
    assert captions(tmp_path) == {"a.jpg": ("dog",)}
    assert captions(tmp_path, Metadata(type="metadata", column="de")) == {"a.jpg": ("Hund",)}
    with pytest.raises(RecipeError, match=r"no column 'fr'; there are: de, caption(?s:.*)column: de"):
        captions(tmp_path, Metadata(type="metadata", column="fr"))


def test_a_list_of_captions_is_kept_whole(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", metadata__jsonl=rows({"file_name": "a.jpg", "text": ["one", "two", "one"]}))
    assert captions(tmp_path) == {"a.jpg": ("one", "two")}


@pytest.mark.parametrize(("row", "words"), [
    ({"file_name": "../a.jpg", "text": "x"}, "expected a name inside"),
    ({"file_name": "/etc/passwd", "text": "x"}, "expected a name inside"),
    ({"file_name": "gone.jpg", "text": "x"}, "'gone.jpg' is not there"),
    ({"file_name": "\ud800.jpg", "text": "x"}, "expected UTF-8"), ({"file_name": "a.jpg", "text": "\ud800"}, "U+D800"),
    ({"text": "x"}, "found no `file_name`"), ({"file_name": 3, "text": "x"}, "found no `file_name`"),
    ({"file_name": "a.jpg", "text": 3}, "found '3', expected a caption"),
    ({"file_name": "a.jpg", "text": ["x", 3]}, "expected a caption, or a list of captions"),
    ({"file_name": "a.jpg", "text": "x\x07"}, "found the character U+0007 (number 2), which no prompt may hold"),
    ({"file_name": "a.jpg", "text": None}, "found an empty caption"),
    ({"file_name": "a.jpg", "text": []}, "found an empty caption"),
    ({"file_name": "a.jpg", "text": ["x", " "]}, "found an empty caption"),
    ({"file_name": "a.jpg", "caption": "x"}, "found no `text`, the column of the captions; there are: caption"),
    ({"file_name": "a.jpg", "text ": "x"}, "found the column 'text ' with blanks around its name"),
    ({"file_name": "a.jpg", "text": "x " * 10_000}, "over 16 KiB"),
    ({"file_name": "ok.jpg", "text": "x"}, "ok.jpg has a row above already"),
    ([1], "expected a JSON object")])
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: object, words: str) -> None:
    lay(tmp_path, "a.jpg", "ok.jpg", metadata__jsonl=rows({"file_name": "ok.jpg", "text": "x"}, row))
    with pytest.raises(RecipeError, match=r"metadata\.jsonl:2: ") as caught:
        captions(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(("table", "line", "words"), [
    ("file_name,text\nok.jpg,a dog, on grass\n", 2, "found 3 fields, expected 2 as in the first row"),
    ("file_name,text\nok.jpg\n", 2, "found 1 fields, expected 2"),
    ('file_name,text\nok.jpg,"a dog\na.jpg,b\n', 2, "is a quote left open?"),
    ('file_name,text\nok.jpg,"a\ndog"\na.jpg,"b" c\n', 4, "is a quote left open?"),
    ("file_name,text,text\nok.jpg,a,b\n", 1, "found the column 'text' twice"),
    ("file_name, text\nok.jpg, a\n", 1, "found the column ' text' with blanks around its name"),
    ("file_name;text\nok.jpg;a\n", 1, "found semicolons between the columns, expected commas"),
    ("file_name\ttext\nok.jpg\ta\n", 1, "found tabs between the columns"),
    ("name,text\nok.jpg,a\n", 1, "found no column `file_name`; there are: 'name', 'text'"),
    ("file_name,text\nok.jpg,\n", 2, "found an empty caption")])
def test_a_bad_csv_row_is_named_with_its_line(tmp_path: Path, table: str, line: int, words: str) -> None:
    lay(tmp_path, "a.jpg", "ok.jpg", metadata__csv=table)
    with pytest.raises(RecipeError) as caught:
        captions(tmp_path)
    assert f"metadata.csv:{line}: " in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("table", [{"metadata__csv": "file_name,text\n"}, {"metadata__jsonl": "\n"}])
def test_a_table_without_rows_is_told(tmp_path: Path, table: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match="found no rows"):
        captions(lay(tmp_path, "a.jpg", **table))


def test_a_key_twice_in_a_row_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", metadata__jsonl='{"file_name": "a.jpg", "text": "x", "text": "y"}')
    with pytest.raises(RecipeError, match=r"metadata\.jsonl:1: found the column 'text' twice"):
        captions(tmp_path)


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("picture", "beside"), [("IMG_1.JPG", "img_1.TXT"), (f"{COMPOSED}.jpg", f"{DECOMPOSED}.txt")])
def test_a_text_file_is_found_whatever_its_case_and_unicode_form(tmp_path: Path, picture: str, beside: str) -> None:
    lay(tmp_path, picture)
    (tmp_path / beside).write_text("a crown", encoding="utf-8")
    found = list_pictures(tmp_path)
    assert ([p.captions for p in found.pictures], found.notes) == ([("a crown",)], ())


def test_two_text_files_of_one_name_are_refused_and_not_where_each_has_its_own_picture(tmp_path: Path) -> None:
    lay(tmp_path, "a.JPG", a__txt="x", a__TXT="y")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system takes both names for one")
    with pytest.raises(RecipeError, match=r"a\.TXT and a\.txt have names that differ"):
        captions(tmp_path, Sidecar())
    (tmp_path / "a.TXT").unlink()
    lay(tmp_path, "A.JPG", A__txt="y")
    assert captions(tmp_path, Sidecar()) == {"A.JPG": ("y",), "a.JPG": ("x",)}


def test_a_table_is_found_whatever_the_case_and_unicode_form_of_its_names(tmp_path: Path) -> None:
    lay(tmp_path, "Below/IMG_1.JPG", f"{COMPOSED}.jpg", METADATA__JSONL=rows(
        {"file_name": "below/img_1.jpg", "text": "x"}, {"file_name": f"{DECOMPOSED}.jpg", "text": "y"}))
    assert captions(tmp_path) == {"Below/IMG_1.JPG": ("x",), f"{COMPOSED}.jpg": ("y",)}
    lay(tmp_path, metadata__csv="file_name,text")
    with pytest.raises(RecipeError, match=r"found both METADATA\.JSONL and metadata\.csv"):
        captions(tmp_path)


WORDS = "عکس سگ من می\u200cدود क्\u200dष 👨\u200d👩 soft\u00adhyphen \U0001fae9 \ue000"
"""Joiners, a soft hyphen, an emoji newer than this Python's tables, and private use."""


@pytest.mark.parametrize("word", WORDS.split())
def test_one_rule_of_characters_for_texts_tables_and_names(tmp_path: Path, word: str) -> None:
    lay(tmp_path, f"a {word}.jpg", metadata__jsonl=rows({"file_name": f"a {word}.jpg", "text": f"a {word}"}))
    (tmp_path / f"a {word}.txt").write_text(f"a {word}", encoding="utf-8")
    for source in (Sidecar(), METADATA, Filename(type="filename")):
        assert list(captions(tmp_path, source).values()) == [(f"a {word}",)]


@pytest.mark.parametrize("bad", ["\x1b", "\x85\x1c", "\u202e", "\u2067"])
def test_a_forbidden_character_is_told_of_in_texts_tables_and_names(tmp_path: Path, bad: str) -> None:
    lay(tmp_path, f"a {bad}.jpg", metadata__jsonl=rows({"file_name": f"a {bad}.jpg", "text": f"a {bad}"}))
    (tmp_path / f"a {bad}.txt").write_text(f"a {bad}", encoding="utf-8")
    for source in (Sidecar(), METADATA, Filename(type="filename")):
        with pytest.raises(RecipeError, match=rf"found the character U\+{ord(bad[-1]):04X} \(number \d\)"):
            captions(tmp_path, source)


def test_a_row_may_hold_what_other_files_take_for_the_end_of_a_line(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", metadata__jsonl='{"file_name": "a.jpg", "text": "a\u2028dog\x85on grass"}\r\n\n')
    assert captions(tmp_path) == {"a.jpg": ("a dog on grass",)}
    (tmp_path / "metadata.jsonl").unlink()
    lay(tmp_path, metadata__csv='file_name,text\na.jpg,"a\r\ndog"\n')
    assert captions(tmp_path) == {"a.jpg": ("a dog",)}


@pytest.mark.parametrize("table", [{"metadata__jsonl": "[" * 100_000},
                                   {"metadata__csv": 'file_name,text\na,"' + "b" * 200_000}])
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, table: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match=r"metadata\.\w+:\d+: "):
        captions(lay(tmp_path, "a.jpg", **table))


def test_a_table_in_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg")
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\na.jpg,caf\xe9\n")
    with pytest.raises(RecipeError, match=r"metadata\.csv:2: found the byte 0xe9, expected UTF-8 text"):
        captions(tmp_path)


def test_bad_rows_are_told_together(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", metadata__jsonl=rows(*({"file_name": f"{i}.jpg", "text": "x"} for i in range(30))))
    with pytest.raises(RecipeError, match="and 20 more"):
        captions(tmp_path)


def test_a_folder_without_a_table_or_with_two_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg")
    with pytest.raises(RecipeError, match=r"found neither metadata\.jsonl nor metadata\.csv"):
        captions(tmp_path)
    lay(tmp_path, metadata__jsonl="{}", metadata__csv="file_name,text")
    with pytest.raises(RecipeError, match="expected one of them"):
        captions(tmp_path)


def test_a_table_that_is_not_read_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", metadata__jsonl="{}")
    assert list_pictures(tmp_path).notes == ("metadata.jsonl is ignored: `captions: {type: metadata}` reads it",)


@pytest.mark.parametrize(("name", "words"), [
    ("a_dog_on_grass.jpg", "a dog on grass"), ("a dog (2).png", "a dog"), ("a_dog-03.png", "a dog"),
    ("a_dog_4.webp", "a dog"), ("half-timbered house.jpg", "half-timbered house"), ("R2D2.jpg", "R2D2")])
def test_a_name_is_a_caption_without_its_number(tmp_path: Path, name: str, words: str) -> None:
    lay(tmp_path, name, "001.jpg")
    assert captions(tmp_path, Filename(type="filename")) == {name: (words,), "001.jpg": ()}
    assert f"'{words}' for {name}" in list_pictures(tmp_path, captions=Filename(type="filename")).notes[0]


def test_one_prompt_for_all_passes_text_files_over_and_says_so(tmp_path: Path) -> None:
    lay(tmp_path, "a.jpg", "b.jpg", a__txt="x", b__txt="")
    found = list_pictures(tmp_path, captions=PromptOnly(type="prompt"))
    assert [p.captions for p in found.pictures] == [(), ()]
    assert len(found.notes) == 1 and "a.txt and other text files are ignored" in found.notes[0]


@pytest.mark.parametrize("source", [METADATA, Sidecar()])
def test_the_split_to_train_on_is_taken_where_a_data_set_has_splits(tmp_path: Path, source: object) -> None:
    lay(tmp_path, "test/x.jpg", "train/a.jpg", README__md="")
    lay(tmp_path / "train", a__txt="a dog", metadata__jsonl=rows({"file_name": "a.jpg", "text": "a dog"}))
    found = list_pictures(tmp_path, captions=source)
    assert [(p.path, p.captions) for p in found.pictures] == [(tmp_path / "train" / "a.jpg", ("a dog",))]
    assert found.notes[0] == "the pictures are those in train/"
