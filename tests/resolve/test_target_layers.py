"""Is an adapter that does not fit the layers it is for refused, and one that fits badly warned of?"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dbrun.events import Note
from dbrun.models.base import families
from dbrun.recipe.load import load_recipe
from dbrun.recipe.new import StarterRequest, starter_recipe
from dbrun.recipe.text.spans import InvalidRecipe, Problem, ProblemCollector
from dbrun.resolve.sources import resolve_sources
from dbrun.resolve.target_layers import check_layers, count_layers, layer_names
from dbrun.store.store import Store

RANKED = ["type: lora", "type: lora, dora: true", "type: lora, rslora: true", "type: lora, start: pissa", "type: loha"]


@pytest.fixture(autouse=True)
def dog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dog.yaml").write_text(starter_recipe(StarterRequest("dog")))


def odd(adapter: str, component: str = "denoiser") -> Sequence[Note]:
    """What is said of an adapter on the base that comes with dbrun."""
    words = [f"adapt.{component}={{{adapter}}}", "export=[component]" if "full" in adapter else "export=[peft]"]
    return [note for note in resolve_sources(load_recipe(Path("dog.yaml"), words), Store(Path("store"))).notes
            if note.stage == f"adapt.{component}"]


def refused(adapter: str, component: str = "denoiser") -> Problem:
    with pytest.raises(InvalidRecipe) as caught:
        odd(adapter, component)
    problem, = caught.value.problems
    return problem


@pytest.mark.parametrize("kind", RANKED)
@pytest.mark.parametrize(("component", "targets"), [
    ("denoiser", "attention"), ("denoiser", "linear"), ("denoiser", "[mid_block*to_k]"), ("text_encoder", "all")])
def test_a_rank_beyond_every_layer_that_is_chosen_is_refused_with_its_place(kind: str, component: str,
                                                                            targets: str) -> None:
    problem = refused(f"{kind}, rank: 4096, targets: {targets}", component)
    assert problem.key == f"adapt.{component}.rank" and problem.span is not None
    assert "found 4096, but none of the " in problem.message and "that `targets` selects is wider" in problem.message
    most = int((problem.fix or "").split()[1])
    assert f"wider than {most}:" in problem.message
    odd(f"{kind}, rank: {most}, targets: {targets}", component)
    assert refused(f"{kind}, rank: {most + 1}, targets: {targets}", component).key == problem.key


def test_a_narrow_choice_is_held_to_its_own_layers_and_not_to_the_widest_of_the_base() -> None:
    assert refused("type: lora, rank: 9, targets: [conv_out]").message.startswith(
        "found 9, but none of the 1 layers that `targets` selects is wider than 8")
    assert odd("type: lora, rank: 8, targets: [conv_out]") == []


@pytest.mark.parametrize("kind", [kind for kind in RANKED if "pissa" not in kind])
def test_a_rank_that_some_layers_cannot_use_is_warned_of_with_their_number_and_the_worst(kind: str) -> None:
    note, = odd(f"{kind}, rank: 96, targets: all")
    assert note.level == "warning"
    assert re.match(r"rank 96 is more than [1-9]\d* of \d\d layers can use, such as `[a-z0-9_.]+` \(64 × 576\);",
                    note.text)
    assert odd(f"{kind}, rank: 8, targets: all") == [], "one narrow layer of many is not worth a word"


def test_a_lokr_whose_rank_says_nothing_is_told_so_and_is_never_too_large() -> None:
    note, = odd("type: lokr, rank: 4000, targets: attention")
    enough = int(note.text.split("from rank ")[1].split()[0])
    assert note.level == "info" and note.text.startswith("rank 4000 has no effect")
    assert odd(f"type: lokr, rank: {enough}, targets: attention") and not odd(f"type: lokr, rank: {enough - 1}")


@pytest.mark.parametrize(("adapter", "key", "words"), [
    ("type: oft, block_size: 7, targets: attention", "block_size", "which does not divide the"),
    ("type: oft, targets: [conv1, to_k]", "targets", "found convolutions among its"),
    ("type: lora, start: pissa, targets: [conv1]", "targets", "splits a weight matrix"),
    ("type: loha, dropout: 0.9, targets: attention", "dropout", "leave out all of them")])
def test_what_else_cannot_go_on_its_layers_is_refused_before_anything_runs(adapter: str, key: str, words: str) -> None:
    problem = refused(adapter)
    assert problem.key == f"adapt.denoiser.{key}" and words in problem.message and problem.span is not None


def test_the_layers_of_a_base_from_the_hub_are_known_once_it_is_here() -> None:
    """Of such a base the commit says what it is, and its files are not listed."""
    loaded = load_recipe(Path("dog.yaml"), ["adapt.denoiser={type: lora, rank: 4096}"])
    base = resolve_sources(load_recipe(Path("dog.yaml")), Store(Path("store"))).sources.base
    for files in (base.files, {}):
        with pytest.raises(InvalidRecipe, match="found 4096, but none of the"):
            findings = ProblemCollector(loaded.origins)
            check_layers(loaded.recipe, replace(base, files=files), findings)
            findings.raise_if_any()
    assert check_layers(loaded.recipe, replace(base, files={}, folder=None), ProblemCollector({}, [])) == ()


def test_usual_adapters_pass_without_a_word() -> None:
    for adapter in ("type: lora, rank: 16, targets: all", "type: oft, targets: attention",
                    "type: full", "type: full, targets: [mid_block, norm1]", "type: lora, targets: [mid_block*to_k]"):
        assert odd(adapter) == []


@pytest.mark.parametrize(("adapter", "missed"), [
    ("type: lora, targets: [to_kk]", "`to_kk`"), ("type: lora, targets: [to_k, to_kk]", "`to_kk`"),
    ("type: lora, targets: [norm1]", "`norm1`"), ("type: full, targets: [mid_blok]", "`mid_blok`")])
def test_targets_that_hit_no_layer_are_refused_with_the_nearest_names(adapter: str, missed: str) -> None:
    problem = refused(adapter)
    assert problem.key == "adapt.denoiser.targets" and problem.span is not None
    assert f"matches {missed}" in problem.message and "The closest module names: " in problem.message
    assert "to_k`" in problem.message if "to_kk" in missed else True


def test_all_that_does_not_fit_is_told_at_once() -> None:
    with pytest.raises(InvalidRecipe) as caught:
        resolve_sources(load_recipe(Path("dog.yaml"), [
            "adapt={denoiser: {type: lora, rank: 4096}, text_encoder: {type: lora, targets: [nope]}}",
            "images.resolution=63", "subject.images=nowhere"]), Store(Path("store")))
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["images.resolution", "adapt.denoiser.rank", "adapt.text_encoder.targets", "subject.images"]
    assert all(problem.span for problem in caught.value.problems)


def given(folder: Path, layers: Sequence[str], rank: int) -> Path:
    """A LoRA of peft's on these layers, by its header; what its weights are does not count here."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    save_file({f"base_model.model.{layer}.lora_{side}.weight": np.zeros((rank, 4) if side == "A" else (4, rank))
               for layer in layers for side in "AB"}, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_to_start_from_is_of_the_recipe_s_rank_and_layers() -> None:
    base = resolve_sources(load_recipe(Path("dog.yaml")), Store(Path("store"))).sources.base
    recipe = load_recipe(Path("dog.yaml"), ["adapt.denoiser={type: lora, targets: attention}"]).recipe
    most, presets = count_layers(families()["sd"], "denoiser", recipe.adapt.adapters["denoiser"], base)
    assert most == presets["attention"] < presets["all"]
    names = [f"layer{number}" for number in range(presets["all"])]
    given(Path("few"), names[:most], 4)
    given(Path("all"), names, 4)
    start = "type: lora, targets: attention, init"
    assert odd(f"{start}: few, rank: 4") == []
    problem = refused(f"{start}: few, rank: 8")
    assert problem.key == "adapt.denoiser.init" and problem.fix == "write `rank: 4`" and problem.span
    problem = refused(f"{start}: all, rank: 4")
    assert "adapts " in problem.message and problem.fix == "write `targets: all`"


def test_an_adapter_on_layers_of_no_preset_is_answered_with_patterns_that_hit_them() -> None:
    """As kohya's trainers choose them by default: the transformers with their projections, and no convolution else."""
    base = resolve_sources(load_recipe(Path("dog.yaml")), Store(Path("store"))).sources.base
    adapter = load_recipe(Path("dog.yaml"), ["adapt.denoiser={type: lora}"]).recipe.adapt.adapters["denoiser"]
    own = [name for name in layer_names(families()["sd"], "denoiser", adapter, base) if "attentions" in name]
    tensors = {f"lora_unet_{name.replace('.', '_')}.lora_{side}.weight": np.zeros((4, 4)) for name in own
               for side in ("down", "up")}
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": np.zeros((2, 4))}
    save_file({**tensors, **text}, "kohya.safetensors")
    start = "type: lora, init: kohya.safetensors, rank: 4, targets"
    problem = refused(f"{start}: attention")
    assert f"adapts {len(own)} layers" in problem.message and "proj_in" in problem.fix
    assert odd(f"{start}: {problem.fix.removeprefix('write `targets: ').rstrip('`')}") == []
    original = families()["sd"].original_layer_names(base.folder, "denoiser", own)
    save_file({f"lora_unet_{name.replace('.', '_')}.lora_{side}.weight": np.zeros((4, 4))
               for name in original.values() for side in ("down", "up")}, "original.safetensors")
    assert refused("type: lora, init: original.safetensors, rank: 4, targets: attention").fix == problem.fix
    other = {f"lora_unet_other_block.lora_{side}.weight": np.zeros((4, 4)) for side in ("down", "up")}
    save_file({**tensors, **other}, "kohya.safetensors")
    assert f"but this base has {len(own)} of them" in refused(f"{start}: attention").message


@pytest.mark.parametrize(("word", "key", "message"), [
    ("token: <dg>, initializer: elephantine", "adapt.trigger.initializer", "has 9 tokens in this base's tokenizer"),
    ("token: <dg>, initializer: dog", None, ""),
    ("token: <dg>, initializer: elephantine, vectors: 9", None, "")])
def test_a_new_word_that_the_base_cannot_learn_is_refused(word: str, key: str | None, message: str) -> None:
    words = [f"adapt.trigger={{{word}}}", "subject.instance_prompt=a photo of <dg> dog", "export=null"]
    loaded, store = load_recipe(Path("dog.yaml"), words), Store(Path("store"))
    if key is None:
        resolve_sources(loaded, store)
        return
    with pytest.raises(InvalidRecipe) as caught:
        resolve_sources(loaded, store)
    problem, = caught.value.problems
    assert problem.key == key and message in problem.message and problem.span is not None
