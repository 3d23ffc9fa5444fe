"""Are pictures and prompts encoded each by itself, once, and from the very bytes that were planned?"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dbrun.errors import RecipeError, StageFailed
from dbrun.models.base import families
from dbrun.stages.preprocess import Preprocess, as_tensor
from dbrun.stages.sources import Picture, Sources
from dbrun.stages.support.prompt_index import PromptIndex

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "dog6"


@pytest.fixture
def loaded(bench, recipe):
    bench.run("load", recipe())
    bench.run("generate-priors", recipe())
    bench.items.made.clear()
    return bench


def test_the_artifact_holds_moments_conditions_and_who_has_which_prompt(loaded, recipe) -> None:
    out = loaded.run("preprocess", recipe()).path
    index = json.loads((out / "index.json").read_text())
    assert index == {"prompts": ["a photo of a dog", "a photo of sks dog"], "instance": [1, 1], "class": [0, 0]}
    latents, prompts = load_file(out / "latents.safetensors"), load_file(out / "prompts.safetensors")
    assert list(latents) == ["class.00000", "class.00001", "instance.00000", "instance.00001"]
    assert {(t.shape, t.dtype) for t in latents.values()} == {((8, 8, 8), torch.float32)}
    assert {k.split(".")[0] for k in prompts} == {"00000", "00001"}


def test_moments_and_conditions_are_the_familys(loaded, recipe) -> None:
    """Recomputed here from the picture, one at a time."""
    from dbrun.images.pixels import read_square

    out = loaded.run("preprocess", recipe()).path
    family = families()["sd"]
    base = family.load(loaded.base, device=torch.device("cpu"), dtype=torch.float32)
    first = loaded.files[min(loaded.files)]
    pixels = as_tensor(read_square(first.read_bytes(), 32, "#ffffff"))
    assert pixels.shape == (3, 32, 32) and -1 <= pixels.min() < pixels.max() <= 1
    with torch.no_grad():
        moments = base.encode_images(pixels[None])[0]
        hidden = base.encode_prompts(["a photo of sks dog"])[0]["hidden"]
    assert torch.equal(moments, load_file(out / "latents.safetensors")["instance.00000"])
    assert torch.equal(hidden, load_file(out / "prompts.safetensors")["00001.hidden"])


def test_white_is_one_and_black_is_minus_one() -> None:
    from PIL import Image

    assert as_tensor(Image.new("RGB", (2, 2), "white")).unique().tolist() == [1.0]
    assert as_tensor(Image.new("RGB", (2, 2), "black")).unique().tolist() == [-1.0]


def test_one_new_picture_encodes_one_picture(loaded, tmp_path, digest_of, picture, recipe) -> None:
    before = load_file(loaded.run("preprocess", recipe()).path / "latents.safetensors")
    assert len(loaded.items.made) == 2 + 2 + 2
    new = picture(tmp_path / "new.png", 200)
    loaded.files[digest_of(new)] = new
    after = load_file(loaded.run("preprocess", recipe()).path / "latents.safetensors")
    assert len(loaded.items.made) == 7
    moved = [sorted(loaded.files).index(d) for d in sorted(set(loaded.files) - {digest_of(new)})]
    assert all(torch.equal(before[f"instance.{i:05d}"], after[f"instance.{j:05d}"]) for i, j in enumerate(moved))


def test_a_prompt_is_encoded_once_however_many_share_it(loaded, recipe) -> None:
    loaded.run("preprocess", recipe(subject={"class_prompt": "a photo of sks dog"}))
    assert sum("'prompt'" in key for key in loaded.items.made) == 1


def test_class_images_have_the_prompts_they_were_drawn_from(bench, recipe) -> None:
    chosen = recipe(prior={"count": 3}, subject={"class_prompt": ("a dog in the snow", "a dog")})
    for name in ("load", "generate-priors", "preprocess"):
        bench.run(name, chosen)
    index = json.loads((bench.artifacts["preprocess"].path / "index.json").read_text())
    assert index["prompts"] == ["a dog", "a dog in the snow", "a photo of sks dog"] and index["class"] == [1, 0, 1]


def test_without_priors_there_is_no_class_half(bench, recipe) -> None:
    bench.run("load", recipe())
    out = bench.run("preprocess", recipe(prior=None)).path
    index = json.loads((out / "index.json").read_text())
    assert index["class"] == [] and index["prompts"] == ["a photo of sks dog"]
    assert all(k.startswith("instance.") for k in load_file(out / "latents.safetensors"))


def test_prompts_are_not_cached_where_the_text_encoder_trains(loaded, recipe) -> None:
    out = loaded.run("preprocess", recipe(adapt={"text_encoder": {"type": "lora", "rank": 1}})).path
    assert not (out / "prompts.safetensors").exists() and (out / "index.json").exists()


def test_a_picture_keeps_its_own_prompt(bench, recipe) -> None:
    bench.run("load", recipe())
    plain = bench.sources

    def sources(chosen) -> Sources:
        usual = plain(chosen)
        return Sources(usual.base, (Picture(usual.pictures[0].digest, "sks dog asleep"), usual.pictures[1]))
    bench.sources = sources
    index = json.loads((bench.run("preprocess", recipe(prior=None)).path / "index.json").read_text())
    assert [index["prompts"][i] for i in index["instance"]] == ["sks dog asleep", "a photo of sks dog"]


def test_an_edit_between_plan_and_run_is_an_error(loaded, recipe) -> None:
    path = next(iter(loaded.files.values()))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StageFailed, match=path.name):
        loaded.run("preprocess", recipe())


def test_a_picture_that_cannot_be_read_is_named(loaded, tmp_path, digest_of, recipe) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0nothing")
    loaded.files[digest_of(broken)] = broken
    with pytest.raises(RecipeError, match=r"broken\.jpg"):
        loaded.run("preprocess", recipe())


@pytest.mark.parametrize("change", [{"images": {"resolution": 16}}, {"images": {"background": "#000000"}}])
def test_how_pictures_are_prepared_is_in_their_key(loaded, change, recipe) -> None:
    loaded.run("preprocess", recipe())
    done = len(loaded.items.made)
    loaded.run("preprocess", recipe(**change))
    assert len(loaded.items.made) == done + 4


def test_equal_inputs_give_equal_bytes(loaded, tmp_path, content, recipe) -> None:
    
    one = content(loaded.run("preprocess", recipe()).path)
    loaded.items = type(loaded.items)(tmp_path / "other items")
    assert content(loaded.run("preprocess", recipe()).path) == one


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos of ../shared/data/dog6 are not here")
def test_real_photos_go_through(bench, digest_of, recipe) -> None:
    bench.files.clear()
    bench.files.update({digest_of(p): p for p in sorted(PHOTOS.glob("*.jpg"))})
    bench.run("load", recipe())
    out = bench.run("preprocess", recipe(prior=None, images={"resolution": 64})).path
    latents = load_file(out / "latents.safetensors")
    assert len(latents) == len(bench.files) and all(t.isfinite().all() for t in latents.values())
    assert Preprocess().params(recipe(), bench.sources(recipe())).pictures


def with_class_pictures(bench, tmp_path, picture, digest_of) -> list[str]:
    """Give the bench two class pictures of its own, the second with a prompt of its own; their digests."""
    (tmp_path / "others").mkdir()
    paths = [picture(tmp_path / "others" / f"{hue}.png", hue) for hue in (33, 44)]
    digests, plain, usual = sorted(map(digest_of, paths)), bench.sources, dict(bench.files)
    bench.files.update({digest_of(p): p for p in paths})

    def sources(chosen) -> Sources:
        own = (Picture(digests[0], "a photo of a dog"), Picture(digests[1], "a dog in the snow"))
        kept = tuple(p for p in plain(chosen).pictures if p.digest in usual)
        return Sources(plain(chosen).base, kept,
                       class_pictures=own if chosen.prior and chosen.prior.images else ())
    bench.sources = sources
    return digests


OWN = {"count": None, "steps": None, "guidance": None, "images": "others"}
BASE = {"count": None, "steps": None, "guidance": None, "target": "base"}


def test_the_users_class_pictures_are_encoded_with_their_own_prompts(
        bench, tmp_path, picture, digest_of, recipe) -> None:
    """The same bytes, encoded as instance pictures, give the same moments."""
    digests = with_class_pictures(bench, tmp_path, picture, digest_of)
    bench.run("load", recipe())
    out = bench.run("preprocess", recipe(prior=OWN)).path
    index = json.loads((out / "index.json").read_text())
    assert index["prompts"] == ["a dog in the snow", "a photo of a dog", "a photo of sks dog"]
    assert index["class"] == [1, 0] and index["instance"] == [2, 2]
    latents = load_file(out / "latents.safetensors")
    bench.sources = lambda chosen: Sources(None, tuple(Picture(d, "x") for d in digests))
    alone = load_file(bench.run("preprocess", recipe(prior=None)).path / "latents.safetensors")
    assert all(torch.equal(latents[f"class.{i:05d}"], alone[f"instance.{i:05d}"]) for i in range(2))


def test_where_the_base_is_the_target_the_class_half_is_the_instance_pictures_under_every_class_prompt(
        bench, recipe) -> None:
    bench.run("load", recipe())
    many = recipe(prior=BASE, subject={"class_prompt": ("a dog in the snow", "a dog")})
    out = bench.run("preprocess", many).path
    index = json.loads((out / "index.json").read_text())
    assert index == {"prompts": ["a dog", "a dog in the snow", "a photo of sks dog"], "instance": [2, 2],
                     "class": [1, 1, 0, 0]}
    assert sorted(load_file(out / "latents.safetensors")) == ["instance.00000", "instance.00001"]
    assert {k.split(".")[0] for k in load_file(out / "prompts.safetensors")} == {"00000", "00001", "00002"}


def test_prompts_of_which_the_base_reads_a_part_are_named_with_the_rest(loaded, recipe, tmp_path) -> None:
    """A letter is a token here, and 75 are read; also where the base's words lie in vocab.json and merges.txt."""
    long = "a" * 74 + " bcd"

    def told() -> list[str]:
        loaded.events.clear()
        loaded.run("preprocess", recipe(prior=None, subject={"instance_prompt": long}))
        return [event.text for event in loaded.events if getattr(event, "level", "") == "warning"]

    words = [f"the base reads 75 tokens, '{'a' * 49}…' has 77, and 'cd' is cut off"]
    assert told() == words
    loaded.base = Path(shutil.copytree(loaded.base, tmp_path / "older"))
    folder = loaded.base / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (folder / "tokenizer.json").unlink()
    assert told() == words


def test_every_variant_and_the_empty_prompt_are_encoded(loaded, recipe) -> None:
    one, two = (Picture(d, *rest) for d, rest in zip(
        sorted(loaded.files), (("a, b, c", ("a, c, b",), 0.2), ("x", (), 0.0)), strict=True))
    loaded.sources = lambda chosen: Sources(None, (one, two))
    out = loaded.run("preprocess", recipe(prior=None)).path
    index = PromptIndex.read(out)
    assert index.prompts == ("", "a, b, c", "a, c, b", "x") and index.instance == (1, 3)
    assert index.variants == ((1, 2), (3,)) and index.dropout == (0.2, 0.0)
    prompts = load_file(out / "prompts.safetensors")
    family = families()["sd"]
    base = family.load(loaded.base, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        wanted = [base.encode_prompts([text])[0]["hidden"] for text in index.prompts]
    assert all(torch.equal(prompts[f"{i:05d}.hidden"], hidden) for i, hidden in enumerate(wanted))


def test_what_is_not_used_leaves_no_mark(tmp_path) -> None:
    for pictures, more in (((Picture("a", "x"),), set()), ((Picture("a", "x", ("y",)),), {"variants"}),
                           ((Picture("a", "x", (), 0.5),), {"dropout"})):
        PromptIndex.build(pictures, ["c"]).write(tmp_path)
        assert set(json.loads((tmp_path / "index.json").read_text())) == {"prompts", "instance", "class", *more}
        assert PromptIndex.read(tmp_path) == PromptIndex.build(pictures, ["c"])


SUBJECTS = ({"images": "a", "instance_prompt": "sks dog", "class_prompt": "a dog"},
            {"images": "b", "instance_prompt": "zwx car", "class_prompt": ("a car", "a car in a room")})


def with_two_subjects(bench) -> None:
    own = tuple((Picture(d, one["instance_prompt"]),) for d, one in zip(sorted(bench.files), SUBJECTS, strict=True))
    base = bench.sources(bench.recipe()).base
    bench.sources = lambda chosen: Sources(base, tuple(p for (p,) in own), pictures_by_subject=own)


def test_each_subject_has_class_images_of_its_class_and_shares_them_with_other_recipes(loaded, recipe) -> None:
    with_two_subjects(loaded)
    alone = loaded.run("generate-priors", recipe(subject={"class_prompt": "a dog"})).path
    loaded.items.made.clear()
    both = recipe(subject=None, subjects=SUBJECTS)
    priors = loaded.run("generate-priors", both).path
    assert len(loaded.items.made) == 2 and len(list(priors.glob("*.png"))) == 4
    index = PromptIndex.read(loaded.run("preprocess", both).path)
    prompts = [index.prompts[i] for i in index.classes]
    assert prompts == ["a car", "a car in a room", "a dog", "a dog"]
    for place, name in ((2, "00000.png"), (3, "00001.png")):
        assert (priors / f"{place:05d}.png").read_bytes() == (alone / name).read_bytes()


def test_where_the_base_is_the_target_each_subject_stands_under_its_own_class(loaded, recipe) -> None:
    with_two_subjects(loaded)
    out = loaded.run("preprocess", recipe(subject=None, subjects=SUBJECTS, prior=BASE)).path
    index = PromptIndex.read(out)
    rows = [(index.prompts[prompt], index.instance_picture(row)) for row, prompt in enumerate(index.classes)]
    assert rows == [("a dog", 0), ("a car", 1), ("a car in a room", 1)]
    assert [index.prompts[i] for i in index.instance] == ["sks dog", "zwx car"]


def test_how_often_pictures_are_repeated_is_in_the_index(bench, recipe) -> None:
    bench.run("load", recipe())
    plain = bench.sources
    bench.sources = lambda chosen: Sources(plain(chosen).base, tuple(
        Picture(p.digest, p.prompt, repeats=2 + i) for i, p in enumerate(plain(chosen).pictures)))
    index = json.loads((bench.run("preprocess", recipe(prior=None)).path / "index.json").read_text())
    assert index["repeats"] == [2, 3]


def test_prompts_are_encoded_in_bf16_on_a_gpu_that_trains_in_it(bench, recipe) -> None:
    """The bench computes on the CPU in any case; pictures stay in 32 bits, as a VAE must."""
    def encoded(**changes: object) -> tuple[torch.Tensor, torch.Tensor]:
        out = bench.through("preprocess", recipe(prior=None, subject={"class_prompt": None}, **changes)).path
        prompts = load_file(out / "prompts.safetensors")
        return next(iter(prompts.values())), next(iter(load_file(out / "latents.safetensors").values()))

    half = {"train": {"precision": "bf16"}}
    whole, latents = encoded()
    on_cpu, _ = encoded(**half)
    on_gpu, same_latents = encoded(**half, device="cuda")
    assert whole.dtype == latents.dtype == torch.float32 and on_gpu.dtype == torch.bfloat16
    assert torch.equal(on_cpu, whole) and torch.equal(same_latents, latents)
    assert 0 < (on_gpu.float() - whole).abs().max() < 0.1 * whole.abs().max()
