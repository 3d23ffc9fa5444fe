"""Do the verbs do what they say, from words to files, over the base that an adapter says it was trained on?"""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from projects import SECRET

import dbrun
from dbrun.cli.verbs import app_for
from dbrun.errors import DbrunError, UsageError
from dbrun.events import Event, Note
from dbrun.safetensors_header import read_provenance


def call(capsys, *words: str) -> tuple[list[str], str]:
    """What a verb puts to stdout, as lines, and what it says."""
    app_for(words)(list(map(str, words)), standalone_mode=False)
    out, err = capsys.readouterr()
    return out.splitlines(), err


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A folder of two adapters, of which one says its base and is delivered by dbrun, the other nothing."""
    from dbrun.recipe.schema.model import Base
    from dbrun.resolve.base import find_base
    from dbrun.store.store import Store

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBRUN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_TOKEN", SECRET)
    source = find_base(Base(path=str(world.home / "base")), tmp_path, Store(tmp_path / "store")).source
    document = {"format_version": 1, "recipe": {"base": {"type": "sd", "identity": source.identity, "variant": None},
                                                "images": {"resolution": 32}}}
    ours = tmp_path / "outputs" / "tiny"
    ours.mkdir(parents=True)
    if not world.made:
        world.made["ours"] = world.write("of-ours", "diffusers", world.adapters("lora", 11), document)
        world.made["theirs"] = world.write("of-theirs", "kohya", world.adapters("lokr", 12))
        world.made["dora"] = world.write("of-dora", "kohya", world.adapters("dora", 13, "denoiser"), document)
    shutil.copy(world.made["ours"], ours)
    shutil.copy(world.made["theirs"], tmp_path / "theirs.safetensors")
    shutil.copy(world.made["dora"], ours / "dora.safetensors")
    (ours / "dbrun.json").write_text(json.dumps({"recipe": {"base": {"path": str(world.home / "base")}}}))
    yield tmp_path
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if SECRET.encode() in path.read_bytes()], "no token in any file"


def test_sample_draws_pictures_and_a_grid(here, capsys) -> None:
    (grid,), said = call(capsys, "sample", "outputs/tiny", "theirs.safetensors:0.6", "a photo of sks dog", "-n", "2",
                         "--seed", "5", "--steps", "2", "--guidance", "2")
    assert grid == "samples/a_photo_of_sks_dog/grid.png" and "tiny + theirs:0.6 over" in said
    folder = here / "samples" / "a_photo_of_sks_dog"
    assert sorted(p.name for p in folder.iterdir()) == ["00.png", "01.png", "grid.png", "sample.json"]
    assert Image.open(folder / "00.png").size == (32, 32) and Image.open(folder / "grid.png").width > 500
    record = json.loads((folder / "sample.json").read_text())
    assert (record["seed"], record["count"], record["steps"], record["guidance"]) == (5, 2, 2, 2.0)
    assert [a["weight"] for a in record["adapters"]] == [1.0, 0.6]
    call(capsys, "sample", "outputs/tiny", "a photo of sks dog", "-n", "1", "--steps", "2", "--each", "-o", "each",
         "--resolution", "40")
    assert sorted(p.name for p in (here / "each").iterdir()) == ["0-00.png", "1-00.png", "grid.png", "sample.json"]
    assert Image.open(here / "each" / "1-00.png").size == (40, 40)


def test_merge_and_convert_write_files_that_say_what_they_are_of(here, capsys) -> None:
    (path,), said = call(capsys, "convert", "outputs/tiny", "--to", "kohya", "-o", "ours")
    assert path == "ours.safetensors" and "read back by its own library" in said
    assert read_provenance(here / path)["converted"] == {"from": "diffusers"}
    assert "recipe" in read_provenance(here / path)
    (path,), said = call(capsys, "merge", "outputs/tiny:0.7", "ours.safetensors:0.5", "-o", "both", "--to", "peft",
                         "--how", "linear")
    assert path == "both" and "away from the sum" in said
    document = read_provenance(here / "both" / "denoiser" / "adapter_model.safetensors")
    assert [part["weight"] for part in document["merged"]["of"]] == [0.7, 0.5]
    assert document["merged"]["how"] == "linear" and len(document["merged"]["of"][0]["sha256"][0]) == 64


def test_the_api_writes_the_same_file_tells_events_and_prints_nothing(here, capsys) -> None:
    (path,), _ = call(capsys, "merge", "outputs/tiny:0.7", "outputs/tiny:0.5", "-o", "a/both", "--how", "linear")
    events: list[Event] = []
    written = dbrun.merge([here / "outputs" / "tiny:0.7", "outputs/tiny:0.5"], "b/both", how="linear",
                          on_event=events.append)
    assert written.path == Path("b/both.safetensors") and written.path.read_bytes() == (here / path).read_bytes()
    assert written.format == "diffusers" and written.difference < 1e-5
    assert any("away from the sum" in text for text in written.lost)
    assert [event.text for event in events if isinstance(event, Note)] == [f"lost: {text}" for text in written.lost]
    assert capsys.readouterr() == ("", "")


def test_merge_sums_what_is_no_lora_as_weights_and_knows_the_base_afterwards(here, capsys) -> None:
    dora, target = "outputs/tiny/dora.safetensors", "outputs/tiny/sum"
    (path,), said = call(capsys, "merge", f"{dora}:0.5", "theirs.safetensors", "-o", target, "--how", "full")
    assert path == f"{target}.safetensors" and "read back by its own library" in said
    assert read_provenance(here / path)["merged"]["how"] == "full"
    (grid,), said = call(capsys, "sample", path, "a photo of sks dog", "-n", "1", "--steps", "2",
                         "--resolution", "32")
    assert "sum over" in said and (here / grid).is_file()
    call(capsys, "merge", dora, "-o", "alone", "--how", "full")


@pytest.mark.parametrize(("words", "error"), [
    (("sample", "theirs.safetensors", "a dog"), "no adapter records the base"),
    (("sample", "outputs/tiny", "a dog", "--resolution", "33"), "multiples of 8"),
    (("sample", "outputs/tiny", "a dog", "--precision", "fp8"), "allowed: fp32, bf16, fp16"),
    (("sample", "outputs/tiny", "a dog", "--base", "nowhere"), "is neither a folder here"),
    (("sample", "outputs/tiny", "a dog", "--base", ""), "found an empty path as the base"),
    (("merge", "outputs/tiny", "-o", "x"), "needs two or more"),
    (("merge", "outputs/tiny", "theirs.safetensors", "-o", "x"), "found lokr on the denoiser in theirs"),
    (("merge", "outputs/tiny", "outputs/tiny/dora.safetensors", "-o", "x"), "found a DoRA on the denoiser in dora"),
    (("merge", "outputs/tiny", "-o", "x", "--how", "full", "--to", "peft"), "allowed with --how full: kohya"),
    (("merge", "outputs/tiny", "outputs/tiny", "-o", "x", "--how", "svd"), "allowed: concatenated, linear"),
    (("convert", "outputs/tiny", "--to", "ckpt"), "allowed: diffusers, kohya, peft"),
    (("convert", "outputs/tiny:0.5", "--to", "kohya"), "a conversion changes no weight")], ids=str)
def test_what_cannot_be_meant_is_refused_before_a_base_is_loaded(here, monkeypatch, words, error) -> None:
    from dbrun.use.bases import LocalBase

    monkeypatch.setattr(LocalBase, "load", lambda *a, **k: pytest.fail("it loaded the base"))
    with pytest.raises(DbrunError, match=error) as caught:
        app_for(words)(list(words), standalone_mode=False)
    assert isinstance(caught.value, UsageError) or caught.value.exit_code == 2
