"""Do `select` and `evaluate` draw and score only what is new, the same each time, and does the best candidate win?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import write_tiny_clip, write_tiny_dinov2

from dbrun.adapters.adapter_io import read_adapters
from dbrun.scores.base import ScoreValue
from dbrun.stages.base import stages
from dbrun.stages.sources import Sources
from dbrun.stages.support.scoring import Measured
from dbrun.stages.support.scoring_params import text_without_trigger

TRAIN = {"steps": 3, "candidates": {"every": 2}}
PROMPTS = ("a photo of sks dog on the moon", "a photo of sks dog at night")


def chosen(bench: Any, **changes: Any) -> Any:
    """The tiny recipe with candidates, `select` and `evaluate`."""
    scoring = {"clip": {"path": "clip"}, "prompts": PROMPTS, "seeds": 2}
    return bench.recipe(prior=None, train=TRAIN, evaluate={**scoring, **changes.pop("evaluate", {})},
                        select={"prompts": PROMPTS[:1], "seeds": 1, **changes.pop("select", {})}, **changes)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Role → sha256 → path of the files of tiny encoders of the real classes."""
    home = tmp_path_factory.mktemp("encoders")
    folders = {"clip": write_tiny_clip(home / "clip"), "dino": write_tiny_dinov2(home / "dino")}
    return {role: {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in folder.iterdir()}
            for role, folder in folders.items()}


@pytest.fixture(scope="module")
def scored(tiny_base: Path, encoders: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory,
           new_bench: Any) -> Any:
    """A trained bench whose sources name both encoders; the tests only add to it."""
    bench = new_bench(tiny_base, tmp_path_factory.mktemp("scored"))
    plain = bench.sources
    pictures = plain(bench.recipe()).pictures

    def with_encoders(recipe: Any) -> Sources:
        found: dict[str, dict[str, dict[str, str]]] = {}
        for section, by_role in recipe.score_encoders.items():
            found[section] = {}
            for role in by_role:
                found[section][role] = {path.name: digest for digest, path in encoders[role].items()}
        return dataclasses.replace(plain(recipe), encoders=found, pictures=pictures)

    bench.through("train", chosen(bench))
    bench.sources = with_encoders
    for files in encoders.values():
        bench.files = {**bench.files, **files}
    return bench


def scores_of(bench: Any) -> dict[str, Any]:
    """scores.json of the last evaluation."""
    document: dict[str, Any] = json.loads((bench.artifacts["evaluate"].path / "scores.json").read_text())
    return document


def made(bench: Any, kind: str) -> list[str]:
    """Keys of the items of a kind that were made since `made` was cleared: `drawn`, `picture`, `text` or `instance`."""
    of_encoder = kind != "drawn"
    name = "seed" if kind == "drawn" else kind
    return [key for key in bench.items.made if f"'{name}': " in key and ("'encoder'" in key) == of_encoder]


@pytest.mark.slow
def test_the_chosen_candidate_is_handed_on_and_only_what_is_new_is_scored(scored: Any) -> None:
    recipe = chosen(scored, select={"keep": "best"})
    folder = scored.run("select", recipe).path
    table = json.loads((folder / "selection.json").read_text())
    assert [row["step"] for row in table["candidates"]] == [2, 3]
    best = max(table["candidates"], key=lambda row: row["mean"])
    assert table["step"] == best["step"]
    trained = scored.artifacts["train"].path
    for name in ("adapter.json", "denoiser.safetensors"):
        assert (folder / name).read_bytes() == (trained / "candidates" / str(best["step"]) / name).read_bytes()

    # prompts x seeds with the adapter, and seeds of the class with it and without it
    scored.items.made.clear()
    scored.run("evaluate", recipe)
    first = scores_of(scored)
    assert (len(made(scored, "drawn")), len(made(scored, "picture"))) == (8, 8)
    assert set(first["scores"]) == {"subject", "prompt", "prior", "diversity"}
    assert first["texts"] == ["a photo of dog on the moon", "a photo of dog at night"]
    scored.items.made.clear()
    scored.run("evaluate", recipe)
    assert scores_of(scored) == first and not scored.items.made
    changed = chosen(scored, evaluate={"prompts": (PROMPTS[0], "a photo of sks dog in a boat")})
    scored.run("evaluate", changed)
    assert (len(made(scored, "drawn")), len(made(scored, "picture")), len(made(scored, "text"))) == (2, 2, 1)
    value = first["scores"]["subject"]
    assert scores_of(scored)["scores"]["subject"]["per_picture"][0] == value["per_picture"][0]


@pytest.mark.parametrize(("trigger", "class_prompt", "text"), [
    ("sks", None, "a photo of a red dog"), ("sks dog", None, "a photo of a red sks dog"),
    ("sks dog", "a photo of a dog", "a photo of a red dog"), (None, None, "a photo of a red sks dog")])
def test_an_encoder_reads_a_prompt_without_the_trigger_that_a_recipe_names(
    scored: Any, trigger: str | None, class_prompt: str | None, text: str
) -> None:
    recipe = chosen(scored)
    subject = recipe.subject.model_copy(update={"trigger": trigger, "class_prompt": class_prompt})
    assert text_without_trigger(recipe.model_copy(update={"subject": subject}), "a photo of a red sks dog") == text


def test_several_scores_choose_what_is_good_by_each_of_them(scored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up scores: by each of them alone another candidate is chosen, and the order of a recipe's list is free.
    """
    values = {"2": {"subject": 0.7, "prompt": 0.29}, "3": {"subject": 0.8, "prompt": 0.2},
              "base": {"subject": 0.1, "prompt": 0.3}}

    def made_up(ctx: Any, params: Any, rows: Any, components: Any) -> dict[str, dict[str, Measured]]:
        return {row.label: {name: Measured(ScoreValue(values[row.label][name], None, None, 1), ())
                            for name in row.scores} for row in rows}

    monkeypatch.setattr("dbrun.stages.support.scoring.score_rows", made_up)
    tables = []
    for by, step in (("subject", 3), (("subject", "prompt"), 2), (("prompt", "subject"), 2)):
        folder = scored.run("select", chosen(scored, select={"by": by})).path
        tables.append(json.loads((folder / "selection.json").read_text()))
        assert tables[-1]["step"] == step
    assert tables[1] == tables[2] and tables[1]["by"] == ["prompt", "subject"]
    assert [row["step"] for row in tables[1]["candidates"]] == [0, 2, 3]
    assert tables[1]["candidates"][1]["combined"] == pytest.approx((0.9 + 0.6 / 0.7) / 2)


def test_a_list_of_scores_has_one_key_in_any_order_and_counts_the_pictures_of_the_base(scored: Any) -> None:
    stage, counts, params = stages()["select"], [], []
    for by in ("subject", ("subject", "prompt"), ("prompt", "subject")):
        recipe = chosen(scored, select={"by": by})
        params.append(stage.params(recipe, scored.sources(recipe)))
        counts.append(stage.workload(recipe, scored.sources(recipe)).units)
    assert params[0] != params[1] == params[2]
    # two candidates, and with several scores the base
    assert counts == [2, 3, 3]


def test_a_step_or_the_last_is_kept_without_a_picture(scored: Any) -> None:
    scored.items.made.clear()
    for keep, step in ((2, 2), ("last", 3)):
        folder = scored.run("select", chosen(scored, select={"keep": keep})).path
        assert json.loads((folder / "selection.json").read_text())["step"] == step
        own = load_file(folder / "denoiser.safetensors")
        expected = read_adapters(scored.artifacts["train"].path / "candidates" / str(step))["denoiser"].state
        assert all(torch.equal(own[name], expected[name]) for name in expected)
    assert not made(scored, "drawn")


def test_the_held_out_loss_can_choose(scored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored.items.made.clear()
    trained = scored.artifacts["train"]
    other = shutil.copytree(trained.path, tmp_path / "train")
    rows = [{"step": 1}, {"step": 2, "held_out_loss": 0.2}, {"step": 3, "held_out_loss": 0.3}]
    (other / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setitem(scored.artifacts, "train", dataclasses.replace(trained, path=other))
    folder = scored.run("select", chosen(scored, select={"by": "held_out_loss"})).path
    assert json.loads((folder / "selection.json").read_text())["step"] == 2
    assert not made(scored, "drawn")


def test_a_dino_measures_the_subject_and_the_base_is_measured_where_it_is_compared(scored: Any) -> None:
    recipe = chosen(scored, evaluate={"dino": {"path": "dino"}, "expect": {"subject": ">= 0.9 of base"}})
    scored.run("select", chosen(scored, select={"keep": "last"}))
    scored.run("evaluate", recipe)
    found = scores_of(scored)["scores"]
    assert found["subject"]["encoder"] == "dino" and found["subject_clip"]["encoder"] == "clip"
    assert set(found["subject"]["base"]) == {"mean", "spread_prompts", "spread_seeds", "count"}
    assert "base" not in found["prompt"]


def test_another_adapter_has_other_scores(scored: Any) -> None:
    recipe = chosen(scored, select={"keep": "last"}, evaluate={"prompts": PROMPTS[:1], "seeds": 1})
    scored.run("select", recipe)
    scored.run("evaluate", recipe)
    before = scores_of(scored)["scores"]["subject"]["mean"]
    path = scored.artifacts["select"].path / "denoiser.safetensors"
    save_file({name: tensor + 0.05 for name, tensor in load_file(path).items()}, path)
    scored.run("evaluate", recipe)
    assert scores_of(scored)["scores"]["subject"]["mean"] != before


def test_select_and_evaluate_draw_from_other_seeds(bench: Any) -> None:
    recipe = chosen(bench)
    seeds = [set(stages()[name].params(recipe, bench.sources(recipe)).seeds) for name in ("select", "evaluate")]
    assert not seeds[0] & seeds[1]
