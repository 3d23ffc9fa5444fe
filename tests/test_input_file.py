"""Named pipes, sockets, devices, links to themselves and deep JSON, refused where a file of the user is read."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from fork_server import run_dbrun
from PIL import Image

from dbrun.errors import RecipeError
from dbrun.images.discover import list_pictures
from dbrun.images.metadata import read_metadata
from dbrun.images.validation import validate_picture
from dbrun.input_file import MAX_JSON_DEPTH, open_file, parse_json, read_file, read_json, undecodable
from dbrun.models.configs import read_config
from dbrun.provenance_check import find_damage
from dbrun.recipe.load import load_recipe
from dbrun.safetensors_header import read_header, read_provenance
from dbrun.store.checksummed_json import read_checksummed
from dbrun.store.digests import FileDigests
from dbrun.store.json_cache import JsonCache

DEEP = b"[" * 100_000 + b"]" * 100_000


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listen(path: Path) -> None:
    # relative: the path of a socket may have 107 bytes only
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def link_to(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.symlink_to(target)

    return link


KINDS = {"a named pipe": pipe, "a socket": listen, "a device": link_to("/dev/zero"), "a folder": Path.mkdir}


@pytest.fixture(autouse=True)
def _back_from_where_sockets_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_regular_file_is_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    KINDS[kind](path)
    for read in (open_file, read_json, FileDigests(JsonCache(tmp_path / "c", tmp_path)).sha256):
        with pytest.raises(OSError, match=kind):
            read(path)
    for refuse in (read_config, validate_picture, read_header, load_recipe):
        with pytest.raises(RecipeError, match=kind):
            refuse(path)


def test_a_link_to_itself_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "l.yaml").symlink_to("l.yaml")
    with pytest.raises(OSError, match="symbolic links"):
        open_file(tmp_path / "l.yaml")


def test_a_file_has_no_more_bytes_than_allowed(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"12345")
    assert read_file(tmp_path / "big", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_file(tmp_path / "big", 4)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_json_is_read_up_to_a_depth(opening: bytes) -> None:
    closing = opening.translate(bytes.maketrans(b"[{", b"]}"), b'"a:')[::-1]
    levels = MAX_JSON_DEPTH // len(closing)
    assert parse_json(opening * levels + b"0" + closing * levels)
    for more in (levels + 1, 100_000):
        with pytest.raises(ValueError, match="nested deeper than"):
            parse_json(opening * more + b"0" + closing * more)


def test_deep_json_is_a_damaged_file_wherever_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_bytes(DEEP)
    assert read_checksummed(file) is None
    with pytest.raises(RecipeError, match="nested deeper"):
        read_config(file)
    header = b'{"a":' + DEEP + b"}"
    (tmp_path / "deep.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(RecipeError, match="its header cannot be read"):
        read_provenance(tmp_path / "deep.safetensors")


def test_what_is_named_as_a_picture_and_is_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "dog.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    found = list_pictures(tmp_path)
    assert [picture.path.name for picture in found.pictures] == ["dog.png"]
    notes = dict(note.split(" is ignored: ") for note in found.notes)
    assert notes["pipe.jpg"] == "it is a named pipe"
    assert notes["loop.jpg"] == notes["gone.jpg"] == "it is a broken link"
    assert "folders" in notes["folder.jpg/"]
    (tmp_path / "dog.png").unlink()
    with pytest.raises(RecipeError, match=r"found 4 other names \(a broken link, a named pipe, folders\)"):
        list_pictures(tmp_path)


def test_a_file_that_is_no_recipe_is_never_quoted(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:$6$secret:19000\nbad: [")
    (tmp_path / "r.yaml").write_text("extends: shadow\nname: x\n")
    for path in (tmp_path / "r.yaml", tmp_path / "shadow"):
        with pytest.raises(RecipeError, match="shadow is not a recipe: its name") as caught:
            load_recipe(path)
        assert "secret" not in str(caught.value)


GOOD = {"recipe": {"base": {"type": "sd", "identity": "files:0", "variant": None}, "adapt": {"denoiser": {}}}}


@pytest.mark.parametrize(("document", "damage"), [
    (GOOD, None), ({"inputs": {}}, None), ({"recipe": []}, "recipe is not an object"),
    ({"recipe": {"base": {"type": "sd", "identity": ""}}}, "recipe.base has no variant"),
    ({"recipe": {**GOOD["recipe"], "adapt": {"denoiser": 1}}}, "recipe.adapt.* is not an object or null"),
    ({"recipe": {**GOOD["recipe"], "subjects": [{"pictures": [{}]}]}}, "recipe.subjects.*.pictures.* has no digest"),
    ({"merged": {"of": [{"provenance": {"recipe": 3}}]}}, "recipe is not an object"),
    ({"recipe": {**GOOD["recipe"], "images": {"resolution": True}}}, "recipe.images.resolution is not a number")])
def test_provenance_with_members_of_other_types_is_damaged(document: dict[str, object], damage: str | None) -> None:
    assert find_damage(document) == damage


LATIN_1 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize(("name", "shown"), [("café", None), (LATIN_1, r"caf\xe9"), ("\ud800x", r"\ud800x")])
def test_a_name_that_is_not_utf_8_is_written_out(name: str, shown: str | None) -> None:
    assert undecodable(name) == shown


def test_a_picture_whose_name_is_not_utf_8_is_refused_before_the_training(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "dog.png")
    (tmp_path / f"{LATIN_1}.doc").touch()
    assert len(list_pictures(tmp_path).pictures) == 1, "what is not read may have any name"
    (tmp_path / f"{LATIN_1}.jpg").touch()
    with pytest.raises(RecipeError, match=r"not UTF-8: caf\\xe9\.jpg"):
        list_pictures(tmp_path)


def test_a_table_of_captions_cannot_name_one_either(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "caf\\udce9.png", "text": "a"}\n')
    with pytest.raises(RecipeError, match=r"metadata\.jsonl:1: found the name caf\\xe9\.png, expected UTF-8"):
        read_metadata(tmp_path, ["metadata.jsonl"], None)


@pytest.mark.parametrize("where", ["the current folder", "DBRUN_STORE", "a word"])
def test_commands_refuse_to_work_where_names_are_not_utf_8(where: str, tmp_path: Path) -> None:
    odd = tmp_path / LATIN_1
    odd.mkdir()
    environment = dict(os.environ)
    words = ["ls"]
    if where == "DBRUN_STORE":
        environment["DBRUN_STORE"] = str(odd)
    elif where == "a word":
        words = ["plan", f"{LATIN_1}.yaml"]
    cwd = odd if where == "the current folder" else tmp_path
    done = run_dbrun(words, cwd=cwd, env=environment)
    assert done.returncode == 2
    assert re.match(r"error: .*caf\\xe9.* not UTF-8", done.stderr), done.stderr
