"""A tiny base, five small pictures, and a job that needs no store."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from dbrun.events import Event
from dbrun.models.base import Sampling, families
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import RuntimeOptions, Stage, StageContext, stages
from dbrun.stages.sources import Artifact, BaseSource, Numerics, Picture, Sources

RECIPE: dict[str, Any] = {
    "schema": "dbrun/v1", "name": "tiny", "base": {"type": "sd", "path": "base"},
    "subject": {"images": "pictures", "instance_prompt": "a photo of sks dog", "class_prompt": "a photo of a dog"},
    "prior": {"count": 2, "steps": 2, "guidance": 2.0}, "images": {"resolution": 32},
    "adapt": {"denoiser": {"type": "lora", "rank": 2, "alpha": 6.0, "targets": "all"}},
    "train": {"steps": 2, "learning_rate": 1e-2, "batch_size": 2},
    "samples": {"steps": 2, "guidance": 2.0, "prompts": ("a photo of sks dog", "a photo of a dog")},
    "device": "cpu", "threads": 1,
}


def recipe(**changes: Any) -> Recipe:
    """The tiny recipe; `train={"steps": 3}` merges into a part, None leaves the key out."""
    document = dict(RECIPE)
    for key, value in changes.items():
        document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value
    return Recipe.model_validate(document)


class MemoryItems:
    """Items in folders of their own; `made` lists the keys that had to be made."""

    def __init__(self, home: Path) -> None:
        self.home, self.made = home, list[str]()

    def get(self, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        text = json.dumps(key, sort_keys=True, default=lambda part: part.model_dump())
        place = self.home / hashlib.sha256(text.encode()).hexdigest()
        if not place.exists():
            place.mkdir(parents=True)
            make(place)
            self.made.append(str(key))
        return place

    def reuse_stored(self) -> None:
        """All is as it stands."""


def content(folder: Path) -> dict[str, bytes]:
    """Every file below folder, by relative name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@dataclass
class Bench:
    """Runs stages one after another on a tiny base."""

    home: Path
    base: Path
    files: dict[str, Path]
    items: MemoryItems
    events: list[Event] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    signum: int = 0
    runs: int = 0
    offload: bool = False

    recipe = staticmethod(recipe)

    def sources(self, chosen: Recipe) -> Sources:
        base = BaseSource("files:0", "sd", self.base, None, {}, Sampling(2, 2.0))
        return Sources(base, tuple(Picture(d, chosen.subject.instance_prompt) for d in sorted(self.files)))

    def run(self, name: str, chosen: Recipe) -> Artifact:
        """Run one stage with the artifacts made so far; its artifact replaces an earlier one."""
        stage: Stage[Any] = stages()[name]
        self.runs += 1
        out, work = self.home / f"{self.runs}-{name}", self.home / f"{self.runs}-{name}.work"
        out.mkdir(), work.mkdir()
        stage.run(StageContext(
            stage=name, params=stage.params(chosen, self.sources(chosen)), numerics=Numerics("cpu", 1),
            inputs={n: self.artifacts[n] for n in stage.needs if stages()[n].applies_to(chosen)}, out=out, work=work,
            files=self.files, base=self.base, items=self.items, runtime=RuntimeOptions(100, 2, offload=self.offload),
            emit=self.events.append, stop_signal=lambda: self.signum))
        digest = hashlib.sha256(repr(sorted(content(out).items())).encode()).hexdigest()
        self.artifacts[name] = Artifact(out, digest)
        return self.artifacts[name]

    def through(self, last: str, chosen: Recipe) -> Artifact:
        """Run every wanted stage up to and including last."""
        order = ["load", "adapt", "generate-priors", "preprocess", "train", "export"]
        for name in order[:order.index(last) + 1]:
            if stages()[name].applies_to(chosen):
                self.run(name, chosen)
        return self.artifacts[last]


def picture(path: Path, hue: int) -> Path:
    """A small picture with a shape in it."""
    image = Image.new("RGB", (48, 40), (hue, 120, 200))
    ImageDraw.Draw(image).ellipse((8, 6, 34, 30), fill=(200, hue, 40))
    image.save(path)
    return path


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the real classes, written once."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    families()["sd"].write_tiny_base(folder)
    return folder


def new_bench(base: Path, folder: Path) -> Bench:
    """A bench with two instance pictures."""
    paths = [picture(folder / f"{hue}.png", hue) for hue in (10, 90)]
    return Bench(folder, base, {digest_of(p): p for p in paths}, MemoryItems(folder / "items"))


@pytest.fixture
def bench(tiny_base: Path, tmp_path: Path) -> Bench:
    """A fresh bench."""
    return new_bench(tiny_base, tmp_path)


@pytest.fixture(scope="session")
def shared_bench(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One bench for tests that only read what was made on it."""
    return new_bench(tiny_base, tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session", name="new_bench")
def _new_bench() -> Callable[[Path, Path], Bench]:
    """`new_bench(base, folder)`, for tests that share a bench of their own."""
    return new_bench


@pytest.fixture(name="recipe")
def _recipe() -> Callable[..., Recipe]:
    """`recipe(**changes)`, for tests, which cannot import this file."""
    return recipe


@pytest.fixture(name="content")
def _content() -> Callable[[Path], dict[str, bytes]]:
    return content


@pytest.fixture(name="picture")
def _picture() -> Callable[[Path, int], Path]:
    return picture


@pytest.fixture(name="digest_of")
def _digest_of() -> Callable[[Path], str]:
    return digest_of
