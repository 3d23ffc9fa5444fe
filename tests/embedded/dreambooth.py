"""How well does a recipe teach a subject? Scored by the judge, over several seeds of the whole run.

`python tests/embedded/dreambooth.py RECIPE --work FOLDER 'with priors' 'without: prior=null subject.class_prompt=null'`
prints a table: each case is a name and the changes to the recipe that make it. FOLDER keeps runs and class images.
"""

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from statistics import mean

import torch
from diffusers import StableDiffusionPipeline
from judge import NEVER_TRAINED, Judge, look_at, sample, trained_judge
from peft import PeftModel

import dbrun
from dbrun.embedded import weights_path
from dbrun.images.samples import read_sample_settings

SHOWN = 8
"""Pictures of the subject for each place that it was never trained in."""
CLASS_SHOWN = 80
"""Pictures of the class, for leak and diversity."""


@dataclass(frozen=True)
class Scores:
    """Shares of pictures, but for diversity: the entropy of the class's colours as a share of the base's.

    subject: the subject is recognised where it was never trained; place: that place is; leak: the class prompt shows
    the subject; placed_leak: the class prompt with such a place does.
    """

    subject: float
    place: float
    leak: float
    placed_leak: float
    diversity: float


@dataclass(frozen=True)
class Asked:
    """What is judged: the subject's name in the world, its prompt, and the prompt of its class."""

    subject: str
    instance: str
    of_class: str


SKS_DOG = Asked("sks_dog", "a photo of sks dog", "a photo of a dog")
ZWX_CAR = Asked("zwx_car", "a photo of zwx car", "a photo of a car")


def run(recipe: Path, changes: Sequence[str], name: str, work: Path) -> Path:
    """Run the recipe as a user does; the folder of its exports. What is in the store of `work` takes 20 ms."""
    return dbrun.run(recipe, f"name={name}", *changes, store=work / "store", outputs=work / "outputs").outputs


def pipeline(adapters: Path | None = None) -> StableDiffusionPipeline:
    """The embedded base, with the PEFT adapters of an export on it."""
    base = StableDiffusionPipeline.from_pretrained(weights_path(), dtype=torch.float32)
    base.set_progress_bar_config(disable=True)
    if adapters is not None:
        for part, folder in (("unet", "denoiser"), ("text_encoder", "text_encoder")):
            if (adapters / "peft" / folder).is_dir():
                adapted = PeftModel.from_pretrained(getattr(base, part), adapters / "peft" / folder)
                setattr(base, part, adapted.merge_and_unload())
    return base


def colours(judge: Judge, model: StableDiffusionPipeline, asked: Asked, guidance: float) -> tuple[float, float]:
    """Entropy in bits of the colours that the class prompt shows, and the share that is the subject."""
    seen = look_at(judge, sample(model, [asked.of_class] * CLASS_SHOWN, guidance=guidance, seed=1))
    shares = [count / len(seen) for count in Counter(verdict.colour for verdict in seen).values()]
    return -sum(p * math.log2(p) for p in shares), mean(v.subject == asked.subject for v in seen)


@cache
def colours_of_base(judge: Judge, asked: Asked, guidance: float) -> float:
    """The same entropy of the base itself."""
    return colours(judge, pipeline(), asked, guidance)[0]


def scores(judge: Judge, export: Path, asked: Asked) -> Scores:
    """The scores of one export, drawn at the guidance of its own samples."""
    model, guidance = pipeline(export), read_sample_settings(export).guidance
    places = [place for place in NEVER_TRAINED for _ in range(SHOWN)]
    subjects = [f"{asked.instance} {place}" for place in places]
    classes = [f"{asked.of_class} {place}" for place in places]
    seen = look_at(judge, sample(model, subjects, guidance=guidance, seed=2))
    others = look_at(judge, sample(model, classes, guidance=guidance, seed=3))
    entropy, leak = colours(judge, model, asked, guidance)
    return Scores(
        subject=mean(v.subject == asked.subject for v in seen),
        place=mean(v.place == place for v, place in zip(seen, places, strict=True)),
        leak=leak,
        placed_leak=mean(v.subject == asked.subject for v in others),
        diversity=entropy / colours_of_base(judge, asked, guidance),
    )


def averaged(recipe: Path, changes: Sequence[str], asked: Asked, seeds: int, work: Path) -> Scores:
    """The mean scores of a recipe over so many seeds, from 0 on."""
    judge, case = trained_judge(), "_".join("".join(c if c.isalnum() else "-" for c in word) for word in changes)
    exports = [run(recipe, [f"seed={seed}", *changes], f"{case[:40] or 'plain'}.{seed}", work) for seed in range(seeds)]
    found = [scores(judge, export, asked) for export in exports]
    return Scores(*(mean(getattr(one, field.name) for one in found) for field in fields(Scores)))


def main() -> None:
    """Print a table, a row for each case as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("cases", nargs="+", metavar="NAME[: CHANGE …]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--subject", choices=[SKS_DOG.subject, ZWX_CAR.subject], default=SKS_DOG.subject)
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    words = parser.parse_args()
    torch.set_num_threads(1)
    words.work.mkdir(parents=True, exist_ok=True)
    asked = next(asked for asked in (SKS_DOG, ZWX_CAR) if asked.subject == words.subject)
    print("| | " + " | ".join(field.name.replace("_", " ") for field in fields(Scores)) + " |")
    print("|---" * (len(fields(Scores)) + 1) + "|")
    for case in words.cases:
        name, _, changes = case.partition(":")
        found = averaged(words.recipe, changes.split(), asked, words.seeds, words.work)
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in vars(found).values()) + " |", flush=True)


if __name__ == "__main__":
    main()
