"""Do the scores in the embedded encoder rank runs as the drawn truth does?

`python tests/embedded/agreement.py recipes/sks_dog.yaml --work FOLDER` prints a table of scores and truths with their
spreads over seeds, and Kendall's tau-b of each score against its truth over all runs. The truth is the mean probability
that the judge gives, not its verdicts: shares of verdicts are all 0 or 1 here. Where nearly all probabilities are 0 or
1, what is left is noise: the second tau-b takes two runs for equal whose difference is within the spread over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from dreambooth import SKS_DOG, pipeline, run
from judge import NEVER_TRAINED, QUESTIONS, Judge, as_tensor, sample, trained_judge
from PIL import Image

from dbrun.embedded import encoder_path, subject_path
from dbrun.embedded.making.places import PLACES
from dbrun.scores.base import EmbeddedPictures, measurable_scores
from dbrun.scores.encoder import Encoder, open_encoder

SEEDS_DRAWN = 4
"""Pictures of each prompt."""
CLASS_SEEDS = 20
"""Pictures of the bare class prompt."""
GUIDANCE = 2.5
"""The recipe's own."""


@dataclass(frozen=True)
class Case:
    """One way to train. changes: to the recipe, None for no adapter; word: the trigger that is asked for.

    The wrong trigger is a word that the base knows: rare words mean the same nothing to it, and one stands for another.
    """

    name: str
    changes: tuple[str, ...] | None
    word: str = "sks"


NO_PRIORS = ("prior=null", "subject.class_prompt=null")
CASES = (Case("no adapter", None), Case("with priors", ()), Case("without priors", NO_PRIORS),
         Case("wrong trigger", (), "black"), Case("too few steps", ("train.steps=40",)),
         Case("too many steps", ("train.steps=1500", *NO_PRIORS)))


@torch.no_grad()
def probabilities(judge: Judge, pictures: Sequence[Image.Image], question: str, answer: str) -> list[float]:
    """Probability that the judge gives to an answer, for each picture."""
    batch = torch.stack([as_tensor(np.asarray(picture.convert("RGB"))) for picture in pictures])
    column = QUESTIONS[question].index(answer)
    return judge(batch)[question].softmax(dim=1)[:, column].tolist()


def measured(model: StableDiffusionPipeline, encoder: Encoder, judge: Judge, word: str) -> dict[str, float]:
    """Scores and truths of one model; a truth's name ends with `_truth`."""
    prompts = [f"a photo of {word} dog {place}" for place in NEVER_TRAINED]
    indices = [index for index in range(len(prompts)) for _ in range(SEEDS_DRAWN)]
    shown = sample(model, [prompts[index] for index in indices], guidance=GUIDANCE, seed=2)
    of_class = sample(model, [SKS_DOG.of_class] * CLASS_SEEDS, guidance=GUIDANCE, seed=1)
    instances = [Image.open(path) for path in sorted(subject_path(SKS_DOG.subject).glob("*.png"))]
    references = {"instances": encoder.embed_pictures(instances), "none": torch.zeros(0, encoder.width),
                  "texts": encoder.embed_texts([f"a photo of a dog {place}" for place in NEVER_TRAINED])}
    drawn = {
        "prompts": EmbeddedPictures(encoder.embed_pictures(shown), tuple(indices),
                                    tuple(range(SEEDS_DRAWN)) * len(prompts)),
        "class_prompt": EmbeddedPictures(encoder.embed_pictures(of_class), (0,) * CLASS_SEEDS,
                                         tuple(range(CLASS_SEEDS))),
    }
    found = {}
    for name, (score, _) in measurable_scores(["clip"]).items():
        found[name] = score.measure(drawn[score.PICTURES], references[score.REFERENCES]).mean
    found["subject_truth"] = mean(probabilities(judge, shown, "subject", SKS_DOG.subject))
    found["prior_truth"] = mean(probabilities(judge, of_class, "subject", SKS_DOG.subject))
    places = [probabilities(judge, shown, "place", place) for place in PLACES]
    asked = [list(PLACES).index(place) for place in NEVER_TRAINED]
    found["prompt_truth"] = mean(places[asked[index]][row] for row, index in enumerate(indices))
    found["diversity_truth"] = mean_entropy(judge, of_class)
    return found


@torch.no_grad()
def mean_entropy(judge: Judge, pictures: Sequence[Image.Image]) -> float:
    """Sum of the entropies in nats of the mean answers on colour, place and pose."""
    batch = torch.stack([as_tensor(np.asarray(picture.convert("RGB"))) for picture in pictures])
    answers = judge(batch)
    total = 0.0
    for question in ("colour", "place", "pose"):
        shares = answers[question].softmax(dim=1).mean(dim=0)
        total -= float((shares * shares.clamp(min=1e-12).log()).sum())
    return total


def kendall_tau_b(first: Sequence[float], second: Sequence[float], equal: tuple[float, float] = (0.0, 0.0)) -> float:
    """Kendall's tau-b (Kendall 1945); nan where one of them is constant. equal: differences up to these are ties."""
    signs = []
    for values, least in zip((np.array(first), np.array(second)), equal, strict=True):
        differences = (values[:, None] - values[None, :])[np.triu_indices(len(values), k=1)]
        signs.append(np.where(np.abs(differences) > least, np.sign(differences), 0))
    signs_x, signs_y = signs
    pairs = np.sqrt(float((signs_x != 0).sum()) * float((signs_y != 0).sum()))
    return float((signs_x * signs_y).sum() / pairs) if pairs else float("nan")


def spread_over_seeds(cases: Sequence[Sequence[Mapping[str, float]]], column: str) -> float:
    """Standard deviation over seeds, pooled over the cases that have several."""
    variances = [stdev([found[column] for found in runs]) ** 2 for runs in cases if len(runs) > 1]
    return mean(variances) ** 0.5


def run_name(case: Case, seed: int) -> str:
    """Name of a run: the same changes are the same run, so the wrong trigger trains nothing anew."""
    words = "_".join(case.changes or ())
    letters = "".join(letter if letter.isalnum() else "-" for letter in words)
    return f"run{letters[:40]}.{seed}"


def shown_row(name: str, runs: Sequence[Mapping[str, float]], columns: Sequence[str]) -> str:
    """A row of the table: mean and standard deviation over the runs of one case."""
    cells = []
    for column in columns:
        values = [found[column] for found in runs]
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.3f}{spread}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table, a row for each case as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoder", type=Path, default=encoder_path())
    words = parser.parse_args()
    torch.set_num_threads(1)
    words.work.mkdir(parents=True, exist_ok=True)
    encoder, judge = open_encoder(words.encoder, torch.device("cpu")), trained_judge()
    columns = [name + end for name in measurable_scores(["clip"]) for end in ("", "_truth")]
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    cases: list[list[Mapping[str, float]]] = []
    for case in CASES:
        runs: list[Mapping[str, float]] = []
        for seed in range(words.seeds):
            export = None
            if case.changes is not None:
                export = run(words.recipe, [f"seed={seed}", *case.changes], run_name(case, seed), words.work)
            runs.append(measured(pipeline(export), encoder, judge, case.word))
            if case.changes is None:
                break
        cases.append(runs)
        print(shown_row(case.name, runs, columns), flush=True)
    every = [found for runs in cases for found in runs]
    for name in measurable_scores(["clip"]):
        columns = [name, f"{name}_truth"]
        scored, true = ([found[column] for found in every] for column in columns)
        first, second = (spread_over_seeds(cases, column) for column in columns)
        print(f"{name}: tau-b {kendall_tau_b(scored, true):.2f} over {len(every)} runs, "
              f"{kendall_tau_b(scored, true, (first, second)):.2f} beyond the spread over seeds")


if __name__ == "__main__":
    main()
