"""Do the scores in the embedded encoder rank runs as the drawn truth does?

`python tests/embedded/agreement.py recipes/sks_dog.yaml --work FOLDER` prints a table of scores and truths with their
spreads over seeds, Kendall's tau-b of each score against its truth over all runs, and the order of the paper's
ablation. The truth is the mean probability that the judge gives, not its verdicts: shares of verdicts are all 0 or 1
here. Where nearly all probabilities are 0 or 1, what is left is noise: the second tau-b takes two runs for equal whose
difference is within the spread over seeds.

Prompt fidelity is measured on prompts that change the coat, as the paper's property modification ("a red [V] dog"):
every run shows the place that it is asked for, so places alone rank nothing. The prompts are all pairs of a colour
that the subject has nowhere and a place that none of its pictures shows. None names a pose, which the embedded encoder
does not read. Subject fidelity is measured on places alone: whether a red dog is still the subject has no true answer.
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
from torch import Tensor

from dbrun.embedded import encoder_path, subject_path
from dbrun.embedded.making.discrimination import measure_encoder
from dbrun.scores.base import EmbeddedPictures, measurable_scores
from dbrun.scores.encoder import Encoder, open_encoder

OTHER_COLOURS = tuple(colour for colour in QUESTIONS["colour"] if colour not in ("white", "black", "orange"))
"""Colours that the subject has nowhere."""
SEEDS_DRAWN = 4
"""Pictures of each place; of each pair of a colour and a place there is one."""
CLASS_SEEDS = 20
"""Pictures of the bare class prompt."""
GUIDANCE = 2.5
"""The recipe's own."""
NOISE = 2
"""Which noise the pictures of subject and prompt fidelity are drawn from."""


@dataclass(frozen=True)
class Case:
    """One way to train. changes: to the recipe, None for no adapter; word: the trigger that is asked for.

    The wrong trigger is a word that the base knows: rare words mean the same nothing to it, and one stands for another.
    It is no colour, because the prompts name one.
    """

    name: str
    changes: tuple[str, ...] | None
    word: str = "sks"


NO_PRIORS = ("prior=null", "subject.class_prompt=null")
CASES = (Case("no adapter", None), Case("with priors", ()), Case("without priors", NO_PRIORS),
         Case("wrong trigger", (), "small"), Case("too few steps", ("train.steps=40",)),
         Case("too many steps", ("train.steps=1500", *NO_PRIORS)))

CLAIMS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "subject": (("without priors", "with priors"), ("with priors", "too few steps"), ("with priors", "wrong trigger"),
                ("with priors", "no adapter")),
    "prompt": (("with priors", "without priors"), ("with priors", "too many steps")),
    "prior": (("without priors", "with priors"), ("too many steps", "with priors")),
    "diversity": (("with priors", "without priors"), ("with priors", "too many steps")),
}
"""Score → pairs of cases, the one with the larger value first.

The first of each is the paper's ablation of prior preservation (Ruiz et al. 2023, section 4.3): with priors the class
survives and prompts are followed, for a little less of the subject. The others are what its overfitting means here.
"""


@torch.no_grad()
def probabilities(judge: Judge, pictures: Sequence[Image.Image], question: str, answers: Sequence[str]) -> list[float]:
    """Probability that the judge gives to each picture's answer."""
    batch = torch.stack([as_tensor(np.asarray(picture.convert("RGB"))) for picture in pictures])
    columns = [QUESTIONS[question].index(answer) for answer in answers]
    return judge(batch)[question].softmax(dim=1)[range(len(columns)), columns].tolist()


def scored(name: str, encoder: Encoder, pictures: Sequence[Image.Image], references: Tensor) -> float:
    """Mean of a score over pictures; references [R, D]: one for each picture, or such as all are compared with."""
    score, _ = measurable_scores(["clip"])[name]
    numbers = tuple(range(len(pictures)))
    # each picture in other colours has its own text; those of the class are of one prompt
    prompts = numbers if score.REFERENCES == "texts" else (0,) * len(pictures)
    return score.measure(EmbeddedPictures(encoder.embed_pictures(pictures), prompts, numbers), references).mean


def measured_in_places(model: StableDiffusionPipeline, encoder: Encoder, judge: Judge, word: str,
                       noise: int = NOISE) -> dict[str, float]:
    """Subject fidelity in places that no instance picture shows, and its truth."""
    prompts = [f"a photo of {word} dog {place}" for place in NEVER_TRAINED for _ in range(SEEDS_DRAWN)]
    pictures = sample(model, prompts, guidance=GUIDANCE, seed=noise)
    return {"subject": scored("subject", encoder, pictures, instance_embeddings(encoder)),
            "subject_truth": mean(probabilities(judge, pictures, "subject", [SKS_DOG.subject] * len(pictures)))}


def measured_in_colours(model: StableDiffusionPipeline, encoder: Encoder, judge: Judge, word: str,
                        noise: int = NOISE) -> dict[str, float]:
    """Prompt fidelity where the prompts change the coat, and its truth: the mean of those of colour and place."""
    asked = [(colour, place) for place in NEVER_TRAINED for colour in OTHER_COLOURS]
    colours, places = [colour for colour, _ in asked], [place for _, place in asked]
    pictures = sample(model, [f"a photo of a {colour} {word} dog {place}" for colour, place in asked],
                      guidance=GUIDANCE, seed=noise)
    # without the trigger, as in the stages `select` and `evaluate`
    texts = encoder.embed_texts([f"a photo of a {colour} dog {place}" for colour, place in asked])
    colour_truth = mean(probabilities(judge, pictures, "colour", colours))
    place_truth = mean(probabilities(judge, pictures, "place", places))
    return {"prompt": scored("prompt", encoder, pictures, texts), "prompt_truth": mean((colour_truth, place_truth)),
            "colour_truth": colour_truth, "place_truth": place_truth}


def measured_of_class(model: StableDiffusionPipeline, encoder: Encoder, judge: Judge) -> dict[str, float]:
    """Prior preservation and diversity of the bare class prompt, and their truths."""
    pictures = sample(model, [SKS_DOG.of_class] * CLASS_SEEDS, guidance=GUIDANCE, seed=1)
    return {"prior": scored("prior", encoder, pictures, instance_embeddings(encoder)),
            "prior_truth": mean(probabilities(judge, pictures, "subject", [SKS_DOG.subject] * len(pictures))),
            "diversity": scored("diversity", encoder, pictures, torch.zeros(0, encoder.width)),
            "diversity_truth": mean_entropy(judge, pictures)}


def instance_embeddings(encoder: Encoder) -> Tensor:
    """Embeddings [M, D] of the subject's instance pictures."""
    return encoder.embed_pictures([Image.open(path) for path in sorted(subject_path(SKS_DOG.subject).glob("*.png"))])


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


def order_line(score: str, cases: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """How often each claim about a score holds, over all pairs of a run of one case and a run of the other."""
    told = []
    for larger, smaller in CLAIMS[score]:
        pairs = [(more[score], less[score]) for more in cases[larger] for less in cases[smaller]]
        held = sum(more > less for more, less in pairs)
        told.append(f"{larger} > {smaller} in {held} of {len(pairs)} pairs")
    return f"{score}: {', '.join(told)}"


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
    columns += ["colour_truth", "place_truth"]
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    cases: dict[str, list[Mapping[str, float]]] = {}
    for case in CASES:
        runs: list[Mapping[str, float]] = []
        for seed in range(words.seeds):
            export = None
            if case.changes is not None:
                export = run(words.recipe, [f"seed={seed}", *case.changes], run_name(case, seed), words.work)
            model = pipeline(export)
            runs.append({**measured_in_places(model, encoder, judge, case.word),
                         **measured_in_colours(model, encoder, judge, case.word),
                         **measured_of_class(model, encoder, judge)})
            if case.changes is None:
                break
        cases[case.name] = runs
        print(shown_row(case.name, runs, columns), flush=True)
    every = [found for runs in cases.values() for found in runs]
    for name in measurable_scores(["clip"]):
        columns = [name, f"{name}_truth"]
        scored, true = ([found[column] for found in every] for column in columns)
        first, second = (spread_over_seeds(list(cases.values()), column) for column in columns)
        print(f"{name}: tau-b {kendall_tau_b(scored, true):.2f} over {len(every)} runs, "
              f"{kendall_tau_b(scored, true, (first, second)):.2f} beyond the spread over seeds")
    for name in measurable_scores(["clip"]):
        print(order_line(name, cases))
    print(f"figures of the encoder: {measure_encoder(words.encoder)}")


if __name__ == "__main__":
    main()
