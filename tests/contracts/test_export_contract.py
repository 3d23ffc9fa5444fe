"""Every format with everything that learns: the recipe's check refuses the pair in words, or its export is exact.

Each pair goes through the export stage's own writing and reading back, on a tiny base with weights far from their
start. The default set has each format and each thing that learns once or more; `slow` has all pairs of all families.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapter_kinds import KINDS, make, moved, put, widest

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, match_layers, read_weights
from dbrun.adapters.embedding import Embedding
from dbrun.errors import KeyProblem
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe, ReferencePredictions
from dbrun.models.base import Family, Model, families
from dbrun.models.prompt_encoding import NOTHING_KNOWN
from dbrun.recipe.checks.exports import default_formats, uncovered_components
from dbrun.recipe.checks.rules import check_rules
from dbrun.recipe.schema.model import Recipe
from dbrun.safetensors_header import read_provenance
from dbrun.stages.support.checked_formats import FormatCheck, write_adapter_formats, write_large_formats

PROMPT = "a photo of <sks> dog"
Learning = dict[str, str]
"""Component → the kind of adapter on it; for a component of new words, the number of vectors."""
COMMON = {"denoiser": "lora", "text_encoder": "lora"}
USUAL: list[tuple[str, Learning, tuple[str, ...]]] = [
    ("sd", COMMON, ("diffusers", "kohya")),
    ("sd", {"text_encoder": "full"}, ("kohya",)),
    ("sd", {"trigger": "2"}, ("single_file",)),
    ("sd", {"denoiser": "lora", "text_encoder": "full", "trigger": "1"}, ("embedding", "merged"))]
"""The pairs of the default set: family, what learns, formats."""


def everything(family: Family) -> list[Learning]:
    """Each kind on each component of a family, and with a new word beside, where the family can learn one."""
    kinds = [*KINDS, "full"]
    found: list[Learning] = []
    for component in family.components:
        found += [{component: kind} for kind in kinds]
    found.append(dict.fromkeys(family.components, "lora"))
    for words in family.token_components:
        beside = [{}, *({component: kind} for component in family.components for kind in ("lora", "full", "lokr")),
                  dict.fromkeys(family.components, "full")]
        found += [{**learning, words: vectors} for learning in beside for vectors in ("1", "3")]
    return found


def pairs() -> list[Any]:
    """Every family, thing that learns and format."""
    usual, seen = [], set()
    for family, learning, names in USUAL:
        for name in names:
            usual.append(pytest.param(family, learning, name, id=f"{family}-{title(learning)}-{name}"))
            seen.add((family, title(learning), name))
    rest = []
    for family in families().values():
        for learning in everything(family):
            for name in formats():
                if (family.NAME, title(learning), name) not in seen:
                    rest.append(pytest.param(family.NAME, learning, name, marks=pytest.mark.slow,
                                             id=f"{family.NAME}-{title(learning)}-{name}"))
    return usual + rest


def title(learning: Learning) -> str:
    return "+".join(f"{component}:{kind}" for component, kind in learning.items())


@cache
def recipe(family: str, learning: str, names: tuple[str, ...]) -> Recipe:
    """A recipe in which this learns, and these formats are written."""
    adapt = {component: settings(component, kind) for component, kind in parse(learning).items()}
    return Recipe.model_validate({
        "schema": "dbrun/v1", "name": "q", "base": {"type": family, "path": "base"},
        "subject": {"images": "p", "instance_prompt": PROMPT}, "adapt": {"denoiser": None, **adapt},
        "export": names or None})


def parse(learning: str) -> Learning:
    return dict(one.split(":") for one in learning.split("+"))


def settings(component: str, kind: str) -> dict[str, Any]:
    """An adapter or a new word, as a recipe writes it."""
    if kind.isdigit():
        return {"token": "<sks>", "initializer": "d", "vectors": int(kind)}
    found = dict(KINDS.get(kind, {"type": kind}))
    if kind != "full":
        found["targets"] = widest(make(kind))
    return found


def export_problems(chosen: Recipe) -> list[KeyProblem]:
    return [problem for problem in check_rules(chosen) if problem.key.startswith("export")]


@dataclass(frozen=True)
class Trained:
    """folder: a base; expected: what it predicts with what was learnt."""

    folder: Path
    probe: Probe
    expected: ReferencePredictions

    def load(self, family: Family) -> Model:
        return family.load(self.folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`world(family, learning)`: a base on which that is trained; each made once."""
    home = tmp_path_factory.mktemp("exports")

    @cache
    def base(name: str) -> Path:
        families()[name].write_tiny_base(home / name)
        return home / name

    @cache
    def trained(name: str, learning: str) -> Trained:
        family, probe = families()[name], Probe(PROMPT, 32)
        bare, on = (family.load(base(name), device=torch.device("cpu"), dtype=torch.float32) for _ in range(2))
        before = probe.predict(bare)
        adapters = {component: learnt(bare, component, kind) for component, kind in parse(learning).items()}
        for component, attached in adapters.items():
            attached.attach_to(on.module(component))
        return Trained(base(name), probe, ReferencePredictions(before, probe.predict(on), adapters))

    return trained


def learnt(model: Model, component: str, kind: str) -> ComponentAdapter:
    """What learns, as if it had learnt. Changes the model."""
    if kind.isdigit():
        word = Embedding.model_validate(settings(component, kind))
        module = model.module(component)
        attach(module, word, (), seed=None)
        return moved(ComponentAdapter(word, (), read_weights(module)), by=1.0)
    adapter, module, presets = make(kind), model.module(component), model.family.target_presets[component]
    preset = widest(adapter)
    names = match_layers(module, presets.get(preset, list(presets.values())[-1]), adapter.layer_classes)
    layers = {name: module.get_submodule(name) for name in names}
    # `full` also takes modules without weights of their own
    problem = adapter.layer_problem({name: layer.weight.shape for name, layer in layers.items()
                                     if hasattr(layer, "weight")})
    if problem is not None and problem.key == "targets":
        # what its message advises
        preset = "blocks"
    return moved(put(model, component, adapter, preset), by=0.1)


@pytest.mark.parametrize(("family", "learning", "name"), pairs())
def test_a_format_carries_it_exactly_or_the_recipe_is_refused(world: Any, tmp_path: Path, family: str,
                                                              learning: Learning, name: str) -> None:
    form, one = formats()[name], families()[family]
    alone = recipe(family, title(learning), ())
    # What this format leaves out is written by the others; the pair itself is what is tried.
    others = default_formats(alone) if uncovered_components(alone, (name,)) else ()
    names = tuple(dict.fromkeys((name, *others)))
    found = export_problems(recipe(family, title(learning), names))
    problems = [problem for problem in found if problem.key != "export"]
    if problems:
        assert name not in default_formats(alone)
        assert all(problem.key == "export.0" and problem.fix and problem.message for problem in problems)
        return
    trained = world(family, title(learning))
    notes: list[str] = []
    ctx: Any = SimpleNamespace(out=tmp_path, note=notes.append, check_interrupt=lambda: None)
    check = FormatCheck(trained.probe, trained.expected, NOTHING_KNOWN, {}, {"format_version": 1})
    write = write_large_formats if form.LARGE else write_adapter_formats
    write(ctx, trained.load(one), [form], check)
    assert "predictions" in notes[0] and trained.expected.effect > 1e-3
    assert any(read_provenance(path) for path in tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.NAME)
def test_the_default_formats_carry_all_that_learns(family: Family) -> None:
    for learning in everything(family):
        chosen = recipe(family.NAME, title(learning), ())
        names = default_formats(chosen)
        assert names and not uncovered_components(chosen, names), title(learning)
        assert export_problems(recipe(family.NAME, title(learning), names)) == [], title(learning)
