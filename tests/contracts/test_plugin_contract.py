"""A plug-in of each kind is one new file: it is in the schema, in recipes and in the plan, and changes no other key.

The files lie in folders that are put behind the packages' own in a fresh process, since the recipe's models are made
when they are first imported. The examples of the guide are among them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    "options/made_optimizer.py": '''
from typing import Literal
from dbrun.options.optimizers import OptimizerOptions

class MadeOptimizer(OptimizerOptions):
    """An optimizer."""
    NAME = "made_optimizer"
    type: Literal["made_optimizer"]
    """The optimizer."""
''',
    "options/made_schedule.py": '''
from typing import ClassVar, Literal
from dbrun.options.schedules import LearningRateSchedule

class MadeSchedule(LearningRateSchedule):
    """A schedule."""
    NAME: ClassVar[str] = "made_schedule"
    depends_on_steps: ClassVar[bool] = False
    type: Literal["made_schedule"]
    """The schedule's shape."""
''',
    "options/made_weighting.py": '''
from typing import ClassVar, Literal
from dbrun.options.weightings import Weighting

class MadeWeighting(Weighting):
    """A weighting."""
    NAME: ClassVar[str] = "made_weighting"
    type: Literal["made_weighting"]
    """The weighting."""
''',
    "options/made_loss.py": '''
from typing import ClassVar, Literal
from dbrun.options.loss_functions import LossFunction

class MadeLoss(LossFunction):
    """A distance."""
    NAME: ClassVar[str] = "made_loss"
    type: Literal["made_loss"]
    """The distance."""
''',
    "options/made_timesteps.py": '''
from typing import ClassVar, Literal
from dbrun.options.timesteps import TimestepDistribution

class MadeTimesteps(TimestepDistribution):
    """A distribution."""
    NAME: ClassVar[str] = "made_timesteps"
    type: Literal["made_timesteps"]
    """The distribution."""
''',
    "adapters/made_adapter.py": '''
from typing import ClassVar, Literal
from dbrun.adapters.base import Adapter, Targets

class MadeAdapter(Adapter):
    """An adapter."""
    NAME: ClassVar[str] = "made_adapter"
    type: Literal["made_adapter"]
    """The adapter type."""
    targets: Targets = "attention"
    """Which layers are adapted."""
''',
    "formats/made_format.py": '''
from dbrun.formats.base import Format

class MadeFormat(Format):
    NAME = "made_format"
    SUMMARY = "a made-up file"
''',
    "models/made_family.py": '''
from dbrun.models.sd import StableDiffusion

class MadeFamily(StableDiffusion):
    NAME = "made_family"
    components = {**StableDiffusion.components, "text_encoder_2": "text_encoder_2"}
    component_docs = {**StableDiffusion.component_docs, "text_encoder_2": "The adapter of the second text encoder."}
    target_presets = {**StableDiffusion.target_presets,
                      "text_encoder_2": StableDiffusion.target_presets["text_encoder"]}
    class_labels = ("none", "made_label")
    class_labels_doc = "Made up."
''',
    "stages/made_stage.py": '''
from dataclasses import dataclass
from dbrun.stages.base import Stage

@dataclass(frozen=True)
class MadeParams:
    seed: int

class MadeStage(Stage[MadeParams]):
    NAME = "made_stage"
    needs = ("export",)
    delivers = True

    def params(self, recipe, sources):
        return MadeParams(recipe.seed)
''',
}
GUIDE = ROOT / ".github" / "CONTRIBUTING.md"
PROGRAM = '''
import importlib, json, sys
from pathlib import Path

extra, store_folder, root = (Path(word) for word in sys.argv[1:4])
sys.path.insert(0, str(root / "tests" / "house"))
for room in sorted(extra.iterdir()):
    importlib.import_module(f"dbrun.{room.name}").__path__.append(str(room))

import test_stage_keys
from dbrun.errors import DbrunError
from dbrun import library_versions
from dbrun.plan.planner import make_scope, plan_scope
from dbrun.plan.selection import Selection
from dbrun.recipe.checks.json_schema import schema_text
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

store = Store(store_folder)
store.prepare()
recipe = root / "recipes" / "sks_dog.yaml"

def plan(*words):
    loaded = load_recipe(recipe, words)
    scope = make_scope(loaded.recipe, resolve_sources(loaded, store), store, Selection(), None)
    return {"stages": [stage.name for stage in plan_scope(scope).stages], "delivering": scope.delivering_stages}

def complaint(*words):
    try:
        load_recipe(recipe, words)
    except DbrunError as error:
        return str(error)
    return None

cases = json.loads(sys.argv[4])
answers = {"plans": {word: plan(*word.split("; ")) for word in cases["plans"]},
           "complaints": {word: complaint(*word.split("; ")) for word in cases["complaints"]},
           "schema": json.loads(schema_text())}
library_versions.installed_version = lambda library: test_stage_keys.PINNED
answers["keys"] = test_stage_keys.keys(recipe, store)
print(json.dumps(answers))
'''
PLANS = ["seed=1", "train.optimizer={type: made_optimizer}", "train.schedule={type: made_schedule}",
         "objective.weighting={type: made_weighting}", "objective.distance={type: made_loss}",
         "objective.timesteps={type: made_timesteps}", "adapt.denoiser={type: made_adapter}; export=[peft]",
         "export=[peft, made_format]", "train.optimizer={type: sgd, momentum: 0.5}",
         "adapt.denoiser={type: hra, rank: 2}; export=[peft]"]
OTHER_FAMILY = "base={type: made_family, path: elsewhere, revision: null}"
COMPLAINTS = [f"{OTHER_FAMILY}; adapt.text_encoder_2={{type: lora}}; export=null",
              f"{OTHER_FAMILY}; train.class_labels=made_label",
              "adapt.text_encoder_2={type: lora}", "train.class_labels=made_label",
              "adapt.text_encoder_3={type: lora}", "export=[made_formt]"]


def guide_examples() -> dict[str, str]:
    """File -> text of each example of the guide, in the package of its base class; without those that dbrun has."""
    found = {}
    for text in re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        name, = re.findall(r'NAME: ClassVar\[str\] = "(\w+)"', text)
        room, = re.findall(r"^from dbrun\.(\w+)\.(?:optimizers|base) import", text, re.MULTILINE)
        if not (ROOT / "dbrun" / room / f"{name}.py").exists():
            found[f"{room}/{name}.py"] = text
    return found


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with all these plug-ins says."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in {**FILES, **guide_examples()}.items():
        path = folder / "rooms" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    asked = json.dumps({"plans": PLANS, "complaints": COMPLAINTS})
    words = [sys.executable, "-c", PROGRAM, str(folder / "rooms"), str(folder / "store"), str(ROOT), asked]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("words", PLANS)
def test_a_recipe_that_names_it_is_planned(answers: dict[str, Any], words: str) -> None:
    stages = answers["plans"][words]["stages"]
    assert stages.index("export") < stages.index("made_stage")
    assert {"export", "made_stage", "summary"} <= set(answers["plans"][words]["delivering"])


def test_the_schema_offers_each(answers: dict[str, Any]) -> None:
    text = json.dumps(answers["schema"])
    names = ("made_optimizer", "made_schedule", "made_weighting", "made_loss", "made_timesteps", "made_adapter",
             "made_format", "made_family", "made_label", "sgd", "hra")
    assert [name for name in names if f'"{name}"' not in text] == []
    fields = answers["schema"]["$defs"]["Adapt"]["properties"]
    assert fields["text_encoder_2"]["description"] == "The adapter of the second text encoder."
    assert "made_format (a made-up file)" in answers["schema"]["properties"]["export"]["description"]


def test_a_component_and_a_label_are_for_the_families_that_have_them(answers: dict[str, Any]) -> None:
    own, label, other, wrong_label, unknown, misspelt = (answers["complaints"][words] for words in COMPLAINTS)
    assert own is None and label is None
    assert "adapt.text_encoder_2: found a component that `base.type: sd` does not have" in other
    assert "train.class_labels: found 'made_label', allowed for `base.type: sd`: none" in wrong_label
    assert "adapt.text_encoder_3: unknown key; did you mean 'adapt.text_encoder_2'?" in unknown
    assert "did you mean 'made_format'?" in misspelt


def test_no_key_of_another_stage_changes(answers: dict[str, Any]) -> None:
    recorded = json.loads((ROOT / "tests" / "house" / "stage_keys.json").read_text(encoding="utf-8"))["sks_dog"]
    assert {name: answers["keys"][name] for name in recorded} == recorded
