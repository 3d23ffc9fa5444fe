"""Is the JSON Schema the models' own, up to date, and of one mind with the loader?"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dbrun.config_types import Part
from dbrun.errors import DbrunError
from dbrun.recipe.checks import json_schema
from dbrun.recipe.checks.json_schema import schema_text

ROOT = Path(__file__).parents[2]
FILE = ROOT / "schemas" / "recipe.schema.json"


class Core(yaml.SafeLoader):
    """YAML's 1.2 core scalars, as editors read them."""


Core.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"), ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_committed_schema_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == schema_text(), "run: python tests/house/regenerate.py"


def test_the_text_is_the_same_in_every_process() -> None:
    program = "from dbrun.recipe.checks.json_schema import schema_text; print(schema_text(), end='')"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
        assert made.stdout == schema_text()


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_is_valid_and_names_the_schema(file: Path, validator) -> None:
    text = file.read_text(encoding="utf-8")
    validator.validate(yaml.load(text, Core))
    assert text.startswith("# yaml-language-server: $schema=../schemas/recipe.schema.json\n")


def test_every_key_has_a_description_and_every_mapping_is_closed() -> None:
    schema = json.loads(schema_text())
    for name, mapping in {"the recipe": schema, **schema["$defs"]}.items():
        assert mapping["additionalProperties"] is False and mapping["description"]
        for key, field in mapping["properties"].items():
            assert field.get("description"), f"{name}: {key} has no docstring"


def unions() -> list[tuple[str, dict[str, Any]]]:
    """Every field that is one of several parts, with where it stands."""
    schema = json.loads(schema_text())
    return [(f"{name}.{key}", field) for name, part in schema["$defs"].items()
            for key, field in part["properties"].items() if "oneOf" in field]


def test_a_union_is_one_of_parts_told_apart_by_type() -> None:
    schema, found = json.loads(schema_text()), dict(unions())
    names = [option["$ref"].rpartition("/")[2] for option in found["Train.schedule"]["oneOf"]]
    assert names == ["Constant", "Linear", "Cosine", "CosineWithRestarts", "Polynomial",
                     "LearningRateScheduleWithoutType"]
    for name, tag in zip(names, ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial"), strict=False):
        assert schema["$defs"][name]["properties"]["type"]["const"] == tag
        assert schema["$defs"][name]["required"] == ["type"]
    assert schema["then"]["properties"]["train"]["properties"]["schedule"] == {"required": ["type"]}
    assert {"Adapt.denoiser", "Adapt.text_encoder", "Objective.weighting", "Objective.distance", "Objective.timesteps",
            "Train.optimizer", "Subject.captions"} <= set(found)


@pytest.mark.parametrize(("spot", "field"), unions(), ids=[spot for spot, _ in unions()])
def test_every_value_of_a_union_is_of_exactly_one_part(spot: str, field: dict[str, Any]) -> None:
    schema = json.loads(schema_text())

    def matching(value: object) -> list[str]:
        return [option.get("$ref", "null").rpartition("/")[2] for option in field["oneOf"]
                if jsonschema.Draft202012Validator({**option, "$defs": schema["$defs"]}).is_valid(value)]

    members = [option["$ref"].rpartition("/")[2] for option in field["oneOf"] if "$ref" in option]
    for name in members[:-1]:
        keys = {key: inner.get("default") for key, inner in schema["$defs"][name]["properties"].items()
                if key != "type" and inner.get("default") is not None}
        tag = schema["$defs"][name]["properties"]["type"]["const"]
        assert matching({"type": tag}) == matching({**keys, "type": tag}) == [name]
        assert matching(keys) == [members[-1]], "what an extending recipe says of it"
    assert matching({}) == [members[-1]]
    assert matching({"type": "zzz"}) == matching({"zzz": 1}) == matching("${seed}") == matching([]) == []
    assert matching(None) == (["null"] if {"type": "null"} in field["oneOf"] else [])


def agree(load, validator, text: str, right: bool) -> None:
    """The schema and the loader both say that text is right, or both that it is wrong."""
    assert validator.is_valid(yaml.load(text, Core)) is right
    with nullcontext() if right else pytest.raises(DbrunError):
        load(text)


SAME = [
    ("", True), ("seed: 5", True), ("seed: -1", False), ("seed: x", False), ("seed: ${train.steps}", True),
    ("threads: 1.5", False), ("zzz: 1", False), ("device: cuda", True), ("device: gpu", False),
    ("samples: {prompts: [a, b]}", True), ("samples: {prompts: []}", False), ("samples: {prompts: a}", False),
    ("samples: {steps: null}", True), ("samples: {prompts: [1, true]}", True), ("threads: 5000", False),
]


@pytest.mark.parametrize(("line", "right"), SAME, ids=[line or "as it is" for line, _ in SAME])
def test_the_schema_and_the_loader_agree(load, good, validator, line: str, right: bool) -> None:
    agree(load, validator, f"{good}\n{line}\n", right)


@pytest.mark.parametrize(("old", "new", "right"), [
    ("rank: 16", "rank: 0", False), ("rank: 16", "alpha: null", True), ("targets: all", "targets: [a, b]", True),
    ("type: lora, ", "", False), ("name: dog", "name: 2024", True), ("name: dog", "name: a/b", False),
    ("path: embedded", "path: a/b, revision: 695e0514", True), ("path: embedded", "", False),
    ("steps: 300", "schedule: {type: cosine, warmup_steps: 3}", True), ("steps: 300", "schedule: {type: cosin}", False),
    ("steps: 300", "schedule: {warmup_steps: 3}", False), ("1e-4", "0", False), ("1e-4", "yes", False),
    ("  class_prompt: a photo of a dog\nprior: {count: 4}", "prior: null", True),
    ("{count: 4}", "{target: base}", True), ("{count: 4}", "{target: bass}", False),
    ("{count: 4}", "{count: 4, stps: 1}", False),
    ("{resolution: 64}", "{background: red}", False),
])
def test_the_schema_and_the_loader_agree_inside(load, good, validator, old: str, new: str, right: bool) -> None:
    agree(load, validator, good.replace(old, new, 1), right)


@pytest.mark.parametrize(("subject", "right"), [
    ("subjects: [{images: a, instance_prompt: b, class_prompt: c}]", True), ("subjects: []", False),
    ("subjects: [{instance_prompt: b, class_prompt: c}]", False), ("subject: null", False),
    ("subject: {instance_prompt: b, class_prompt: c}", False), ("zzz: 1", False),
    ("subjects: [{images: a, instance_prompt: b, class_prompt: c, captions: {type: filename, dropout: 0.1}}]", True),
    ("subject: {images: a, class_prompt: c, captions: {type: metadata, shuffle: {keep: 2}}}", True),
    ("subject: {images: a, class_prompt: c, captions: {type: prompt, shuffle: {keep: 2}}}", False)])
def test_the_schema_and_the_loader_agree_on_subjects(load, good, validator, subject: str, right: bool) -> None:
    head, _, rest = good.partition("subject:\n")
    text = f"{head}{subject}\nprior:{rest.partition('prior:')[2]}"
    if subject == "subject: null":
        assert validator.is_valid(yaml.load(text, Core))  # a null counts as written; only the loader sees through it
        text = text.replace("subject: null\n", "")
    agree(load, validator, text, right)


def test_what_an_extending_recipe_leaves_out_is_not_asked_for(validator) -> None:
    assert validator.is_valid({"extends": "a.yaml", "adapt": {"denoiser": {"rank": 3}}})
    assert validator.is_valid({"extends": "a.yaml", "adapt": {"denoiser": {"factor": 4}, "text_encoder": None}})
    assert not validator.is_valid({"extends": "a.yaml", "adapt": {"denoiser": {"type": "lora", "factor": 4}}})
    assert not validator.is_valid({"extends": "a.yaml", "adapt": {"denoiser": {"rnak": 4}}})
    assert validator.is_valid({"extends": "a.yaml", "profiles": {"ci": {"train": {"optimizer": {"beta1": 0.5}}}}})
    assert validator.is_valid({"extends": ["a.yaml", "b.yaml"]})
    assert not validator.is_valid({"extends": []})
    assert not validator.is_valid({"name": "a"})


def test_two_parts_of_one_name_are_refused_with_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (type("Made", (Part,), {"__module__": module}) for module in ("one", "two"))
    monkeypatch.setattr(json_schema, "_all_parts", lambda spot: [first, first, second])
    with pytest.raises(TypeError, match="one and two both have a class Made"):
        schema_text()
