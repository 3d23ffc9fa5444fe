"""Does each kind of bad picture or bad word get a clear answer before anything expensive starts?"""

import json
from io import BytesIO
from pathlib import Path
from zlib import crc32

import pytest
from PIL import Image
from projects import Project


def photo(size: tuple[int, int] = (60, 40), mode: str = "RGB") -> Image.Image:
    return Image.effect_noise(size, 60).convert("RGB").convert(mode)


def spoil(folder: Path, kind: str) -> None:
    match kind:
        case "truncated":
            photo((200, 200)).save(folder / "bad.jpg")
            content = (folder / "bad.jpg").read_bytes()
            (folder / "bad.jpg").write_bytes(content[:len(content) // 2])
        case "text":
            (folder / "bad.png").write_text("not a picture")
        case "dot":
            Image.new("RGB", (1, 1)).save(folder / "bad.png")
        case "cmyk":
            photo(mode="CMYK").save(folder / "odd.jpg")
        case "rgba":
            photo(mode="RGBA").save(folder / "odd.png")
        case "rotated":
            exif = Image.Exif()
            exif[0x0112] = 6
            photo().save(folder / "odd.jpg", exif=exif)
        case "words":
            (folder / "notes.txt").write_text("shopping list")


@pytest.mark.parametrize(("kind", "word"), [("truncated", "bad.jpg"), ("text", "bad.png"), ("dot", "1×1")])
def test_a_bad_picture_is_refused_by_name_before_any_stage(fresh: Project, kind: str, word: str) -> None:
    spoil(fresh.folder / "pictures", kind)
    for verb in ("plan", "run"):
        said = fresh.dbrun(verb, "tiny.yaml", check=2).stderr
        assert word in said and "bad." in said and "Traceback" not in said
    assert not (fresh.folder / "outputs").exists()
    assert not list((fresh.folder / ".dbrun").glob("traces/load/*"))


@pytest.mark.parametrize("words", [
    ["run", "tiny.yaml"], ["stage", "load", "tiny.yaml"], ["run", "tiny.yaml", "--sweep", "seed=1,2"],
    ["plan", "tiny.yaml", "--pictures"]], ids=" ".join)
def test_pixels_that_only_decoding_finds_spoilt_are_refused_before_any_stage(fresh: Project, words: list[str]) -> None:
    """A PNG cut off within its compressed pixels, with checksums that are right all the same."""
    photo().save(whole := BytesIO(), "PNG")
    head, pixels = whole.getvalue()[:33], whole.getvalue()[41:-200]
    chunks = [len(data).to_bytes(4) + kind + data + crc32(kind + data).to_bytes(4)
              for kind, data in ((b"IDAT", pixels), (b"IEND", b""))]
    (fresh.folder / "pictures" / "bad.png").write_bytes(head + b"".join(chunks))
    fresh.dbrun("plan", "tiny.yaml")
    assert "bad.png: the picture is broken or cut off" in fresh.dbrun(*words, check=2).stderr
    assert not list((fresh.folder / ".dbrun").glob("traces/load/*"))


@pytest.mark.parametrize(("kind", "file", "word"), [
    ("cmyk", "odd.jpg", "CMYK"), ("rgba", "odd.png", "transparen"), ("rotated", "odd.jpg", "upright"),
    ("words", "notes.txt", "notes.txt")])
def test_an_odd_picture_is_used_with_a_word_about_it(fresh: Project, kind: str, file: str, word: str) -> None:
    spoil(fresh.folder / "pictures", kind)
    said = fresh.dbrun("plan", "tiny.yaml").stderr
    assert file in said and word in said


def test_an_empty_folder_is_an_error(fresh: Project) -> None:
    (fresh.folder / "nothing").mkdir()
    said = fresh.dbrun("plan", "tiny.yaml", "subject.images=nothing", check=2).stderr
    assert "nothing" in said and "picture" in said


@pytest.mark.parametrize(("words", "answer"), [
    (["plan", "tiny.yaml", "train.stepz=3"], "steps"),
    (["plan", "tiny.yaml", "train.steps=many"], "whole number"),
    (["plan", "tiny.yaml", "trainsteps"], "key=value"),
    (["plan", "tiny.yaml", "images.resolution=33"], "multiple"),
    (["plan", "tiny.yaml", "base.path=nowhere_at_all"], "nowhere_at_all"),
    (["plan", "tiny.yaml", "subject.images=nowhere"], "nowhere"),
    (["plan", "tiny.yaml", "subject.class_prompt=null"], "class_prompt"),
    (["plan", "missing.yaml"], "missing.yaml"),
    (["run", "tiny.yaml", "--until", "trian"], "train"),
    (["stage", "trian", "tiny.yaml"], "train"),
    (["show", "tiny.yaml"], "safetensors"),
    (["new", "../evil"], "name"),
])
def test_a_wrong_word_ends_with_2_and_the_right_one(fresh: Project, words: list[str], answer: str) -> None:
    said = fresh.dbrun(*words, check=2).stderr
    assert answer in said and "Traceback" not in said


def test_a_target_that_matches_nothing_names_the_closest(fresh: Project) -> None:
    said = fresh.dbrun("stage", "adapt", "tiny.yaml", "adapt.denoiser.targets=[to_qq]", check=None)
    assert said.returncode in (1, 2) and "to_q" in said.stderr and "Traceback" not in said.stderr


def test_a_learning_rate_that_explodes_stops_clearly_and_exports_nothing(fresh: Project) -> None:
    said = fresh.dbrun("run", "tiny.yaml", "train.learning_rate=1e6", "train.max_grad_norm=null", check=1)
    assert "the loss is" in said.stderr and "learning_rate" in said.stderr
    assert not (fresh.folder / "outputs").exists()


def test_a_failure_is_the_last_event_for_programs(fresh: Project) -> None:
    for words, code in ((["train.steps=many"], 2), (["train.learning_rate=1e6", "train.max_grad_norm=null"], 1)):
        lines = fresh.dbrun("run", "tiny.yaml", "--json", *words, check=code).stdout.splitlines()
        last = json.loads(lines[-1])
        assert last["event"] == "run_failed" and last["exit_code"] == code and last["message"]


def test_events_as_json_lines_are_json_and_alone_on_stdout(fresh: Project) -> None:
    lines = fresh.dbrun("run", "tiny.yaml", "--until", "adapt", "--json").stdout.splitlines()
    events = [event for line in lines if (event := json.loads(line)["event"]) != "note"]
    assert events[0] == "run_started" and events[-1] == "run_finished"
