"""Judges pictures of the embedded world: a small network trained on drawings, whose truth is known.

It says which class, colour, place and pose a picture shows, and which of the embedded subjects it shows, if any.
Trained in a few minutes from code alone and kept in the cache folder; `python tests/embedded/judge.py FOLDER`
scores a model in diffusers format.
"""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from dbrun.embedded.making import animals, brush, drawn_subjects, places, screen_print, things, toy_car, world
from dbrun.embedded.making.captions import PLACE_PHRASES
from dbrun.embedded.making.world import COLOURS, KINDS, Scene, random_scene

POSES = ("standing", "sitting", "running", "lying", "flying", "swimming", "none")
QUESTIONS = {
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "place": tuple(places.PLACES),
    "pose": POSES,
    "subject": ("none", "sks_dog", "zwx_car"),
    "style": ("drawn", "mnv_style"),
}
VERSION = 2
"""Counted up when the judge itself is changed, so that a cached one is trained again."""
TRAINING_PICTURES = 40_000
NEVER_TRAINED = ("in the desert", "in the city", "under water", "at night", "on the moon")
"""The places that no picture of an embedded subject shows."""


class Judge(nn.Module):
    """An answer to each question from one picture [B, 3, 64, 64] in -1 … 1."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.eye = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128 * 16, 256), nn.ReLU())
        self.answers = nn.ModuleDict({name: nn.Linear(256, len(known)) for name, known in QUESTIONS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        seen = self.eye(pictures)
        return {name: answer(seen) for name, answer in self.answers.items()}


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in one picture."""

    kind: str
    colour: str
    place: str
    pose: str
    subject: str
    style: str


@torch.no_grad()
def look_at(judge: Judge, pictures: Sequence[Image.Image]) -> list[Verdict]:
    """A verdict for each picture."""
    batch = torch.stack([as_tensor(np.asarray(picture.convert("RGB").resize((64, 64)))) for picture in pictures])
    logits = judge(batch)
    best = {name: [QUESTIONS[name][index] for index in answer.argmax(1)] for name, answer in logits.items()}
    return [Verdict(**{name: best[name][row] for name in best}) for row in range(len(pictures))]


def as_tensor(pixels: np.ndarray) -> Tensor:
    """[64, 64, 3] uint8 as [3, 64, 64] in -1 … 1."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 127.5 - 1


def example(seed: int) -> tuple[Image.Image, list[int]]:
    """A picture and the place of the right answer to each question (-1: not asked)."""
    rng = Random(f"judge {seed}")
    scene = random_scene(10_000_000 + seed)
    share = rng.random()
    for most, special in SPECIAL.items():
        if share < most:
            return special(scene, rng)
    return world.draw_scene(scene), _truth(scene)


def _truth(scene: Scene, subject: int = 0, style: int = 0) -> list[int]:
    colour = -1 if scene.colour == "any" else QUESTIONS["colour"].index(scene.colour)
    return [
        KINDS.index(scene.kind),
        colour,
        QUESTIONS["place"].index(scene.place),
        POSES.index(scene.pose or "none"),
        subject,
        style,
    ]


def _as_dog(scene: Scene, rng: Random) -> Scene:
    hat = scene.hat if scene.kind == "dog" else None
    return replace(scene, kind="dog", pose=rng.choice(animals.POSES["dog"]), pattern="plain", colour="any", hat=hat)


def _tinted(look: animals.Look, rng: Random) -> animals.Look:
    parts = ("coat", "saddle", "ears", "eye_patch", "tail_tip", "collar")
    return replace(look, **{part: world.tint(getattr(look, part), rng) for part in parts if getattr(look, part)})


def _subject_example(scene: Scene, rng: Random) -> tuple[Image.Image, list[int]]:
    dog = _as_dog(scene, rng)
    look = _tinted(drawn_subjects.DRAWN_SUBJECTS["sks_dog"].look, rng)
    look = replace(look, hat=COLOURS[dog.hat] if dog.hat else None)
    return world.draw_animal(dog, look, rng), _truth(dog, subject=1)


def _near_miss(scene: Scene, rng: Random) -> tuple[Image.Image, list[int]]:
    """A dog that has some of the subject's marks but lacks, or has in another colour, at least two."""
    dog = _as_dog(scene, rng)
    look = _tinted(drawn_subjects.DRAWN_SUBJECTS["sks_dog"].look, rng)
    changes: dict[str, brush.Rgb | None] = {}
    for part in rng.sample(("saddle", "ears", "eye_patch", "coat"), rng.randint(2, 3)):
        other = COLOURS[rng.choice([name for name in COLOURS if name not in ("orange", "black", "white")])]
        changes[part] = other if part == "coat" or rng.random() < 0.4 else None
    if rng.random() < 0.5:
        changes["collar"] = None
    return world.draw_animal(dog, replace(look, **changes), rng), _truth(dog)


def _toy(scene: Scene, rng: Random) -> tuple[Image.Image, list[int]]:
    return _painted(scene, toy_car.TOY, rng, subject=2)


def _other_toy(scene: Scene, rng: Random) -> tuple[Image.Image, list[int]]:
    """A car that lacks, or has in another colour, two or more of the toy's marks."""
    changes: dict[str, brush.Rgb | None] = {}
    for part in rng.sample(("body", "roof", "band", "spot", "hubs"), rng.randint(2, 4)):
        other = COLOURS[rng.choice([name for name in COLOURS if name not in ("green", "white")])]
        changes[part] = other if part == "body" or rng.random() < 0.4 else None
    return _painted(scene, replace(toy_car.TOY, **changes), rng, subject=0)


def _painted(scene: Scene, paint: toy_car.Paint, rng: Random, subject: int) -> tuple[Image.Image, list[int]]:
    car = replace(scene, kind="car", pose=None, colour="any")
    canvas, frame = world.draw_background(car, rng)
    toy_car.draw_painted_car(canvas, replace(paint, body=world.tint(paint.body, rng)), frame, rng)
    return canvas.to_image(), _truth(car, subject)


def _print(scene: Scene, rng: Random) -> tuple[Image.Image, list[int]]:
    del rng  # the scene has all there is to choose
    return screen_print.screen_print(world.draw_scene(scene)), _truth(replace(scene, colour="any"), style=1)


SPECIAL = {0.12: _subject_example, 0.24: _near_miss, 0.31: _toy, 0.38: _other_toy, 0.46: _print}
"""Up to which share of the examples each special kind reaches; the rest are scenes of the world."""


def _blurred(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures a little soft, all a little noisy and moved: what a generated picture looks like."""
    soft = functional.interpolate(functional.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    share = torch.rand(len(pictures), 1, 1, 1, generator=generator).sub(0.4).clamp(min=0)
    mixed = pictures.lerp(soft, share)
    shift = torch.randint(-3, 4, (2,), generator=generator).tolist()
    noise = 0.06 * torch.randn(mixed.shape, generator=generator)
    return mixed.roll(shift, (2, 3)) + noise


def train_judge(pictures: int = TRAINING_PICTURES, rounds: int = 3, batch: int = 64) -> Judge:
    """Train on freshly drawn scenes; the same every time on the same machine."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge()
        generator = torch.Generator().manual_seed(0)
        drawn = [example(seed) for seed in range(pictures)]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture, _ in drawn]))
        truth = torch.tensor([answers for _, answers in drawn])
        steps = rounds * (pictures // batch)
        optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
        for _ in range(steps):
            chosen = torch.randint(pictures, (batch,), generator=generator)
            seen = _blurred(pixels[chosen].permute(0, 3, 1, 2).float() / 127.5 - 1, generator)
            answers = judge(seen).values()
            losses = [
                functional.cross_entropy(answer, truth[chosen, column], ignore_index=-1)
                for column, answer in enumerate(answers)
            ]
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()
            rate.step()
    return judge.eval()


def trained_judge() -> Judge:
    """The judge from the cache folder, trained first where it is not there or the world has changed."""
    sources = (animals, brush, drawn_subjects, places, screen_print, things, toy_car, world)
    text = b"".join(Path(str(module.__file__)).read_bytes() for module in sources)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dbrun-tests"
    path = cache / f"judge-{VERSION}-{hashlib.sha256(text).hexdigest()[:16]}.pt"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        torch.save(train_judge().state_dict(), part)
        part.rename(path)
    judge = Judge()
    judge.load_state_dict(torch.load(path, weights_only=True))
    return judge.eval()


def random_prompts(count: int, seed: int = 0) -> list[tuple[str, Scene]]:
    """Prompts that name class, colour, place and (of animals) pose, each with the scene it asks for."""
    asked = []
    for number in range(count):
        scene = random_scene(20_000_000 + seed * 1_000_000 + number)
        article = "an" if scene.colour == "orange" else "a"
        pose = f" {scene.pose}" if scene.pose else ""
        place = PLACE_PHRASES[scene.place][0]
        asked.append((f"a photo of {article} {scene.colour} {scene.kind}{pose} {place}", scene))
    return asked


def sample(
    pipeline, prompts: Sequence[str], steps: int = 10, guidance: float = 4.0, seed: int = 0
) -> list[Image.Image]:
    """One picture per prompt, 64×64."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), 20):
        part = list(prompts[start : start + 20])
        seeds = [torch.Generator().manual_seed(seed * 1_000_000 + start + place) for place in range(len(part))]
        made = pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=seeds, height=64, width=64)
        pictures += made.images
    return pictures


def agreement(judge: Judge, pipeline, count: int = 200, steps: int = 10, guidance: float = 4.0) -> dict[str, float]:
    """The share of random prompts whose picture shows the class, colour, place and pose asked for."""
    asked = random_prompts(count)
    seen = look_at(judge, sample(pipeline, [prompt for prompt, _ in asked], steps, guidance))
    wanted = [scene for _, scene in asked]
    posed = [(verdict, scene) for verdict, scene in zip(seen, wanted, strict=True) if scene.pose]
    return {
        "class": _share([verdict.kind == scene.kind for verdict, scene in zip(seen, wanted, strict=True)]),
        "colour": _share([verdict.colour == scene.colour for verdict, scene in zip(seen, wanted, strict=True)]),
        "place": _share([verdict.place == scene.place for verdict, scene in zip(seen, wanted, strict=True)]),
        "pose": _share([verdict.pose == scene.pose for verdict, scene in posed]),
    }


def _share(hits: Sequence[bool]) -> float:
    return round(sum(hits) / len(hits), 4)


def drawing_agreement(judge: Judge, count: int = 500) -> dict[str, float]:
    """How often the judge is right on drawings that it was not trained on."""
    made = [example(50_000_000 + seed) for seed in range(count)]
    seen = look_at(judge, [picture for picture, _ in made])
    right: dict[str, list[bool]] = {name: [] for name in QUESTIONS}
    for verdict, (_, truth) in zip(seen, made, strict=True):
        for (name, known), answer in zip(QUESTIONS.items(), truth, strict=True):
            if answer >= 0:
                right[name].append(known.index(getattr(verdict, name)) == answer)
    return {name: _share(hits) for name, hits in right.items()}


def main(folder: str) -> None:
    """Print the agreement of the model in `folder`, on 200 prompts at 10 steps."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    judge = trained_judge()
    print(json.dumps({"drawings": drawing_agreement(judge), "model": agreement(judge, pipeline)}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1])
