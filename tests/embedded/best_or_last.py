"""Does `select` choose a better candidate than the last one, by the drawn truth that it never saw?

`python tests/embedded/best_or_last.py recipes/sks_dog.yaml --work FOLDER` trains ten times too long, without prior
preservation, and prints for each seed the chosen step, and the truths of the chosen and of the last candidate. Their
mean counts: a picture should show the subject, and what its prompt says. The choice is made on the default prompts of
`select`, which name places. What is measured are more places, coats of other colours, and other noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import torch
from agreement import NO_PRIORS, NOISE, measured_in_colours, measured_in_places, shown_row, spread_over_seeds
from dreambooth import pipeline, run
from judge import Judge, trained_judge

from dbrun.embedded import encoder_path
from dbrun.safetensors_header import read_header
from dbrun.scores.encoder import Encoder, open_encoder

COLUMNS = ("truth", "subject", "subject_truth", "prompt", "prompt_truth")
"""Of the printed table; truth: the mean of those of subject and prompt."""
LAST = "last"
TOO_LONG = ("train.steps=300", "train.candidates.every=10")
"""Without priors the subject is learnt within 30 steps, and after 200 it takes hardly another colour any more."""
MEASUREMENTS = 3
"""How often an adapter is measured, each time on pictures of other noise: their spread is that of the truth."""

Measurements = list[Mapping[str, float]]


def main() -> None:
    """Print a row for each seed and choice, the means over the seeds, and how far each choice is above the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--by", nargs="+", default=["subject", "prompt", "subject, prompt"], metavar="SCORES")
    parser.add_argument("--seeds", type=int, default=3)
    words = parser.parse_args()
    torch.set_num_threads(1)
    words.work.mkdir(parents=True, exist_ok=True)
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    found: dict[str, list[Measurements]] = {}
    for seed in range(words.seeds):
        for name, (step, measurements) in compared(words.recipe, words.by, seed, words.work).items():
            found.setdefault(name, []).append(measurements)
            print(shown_row(f"seed {seed}, {name}, step {step}", measurements, COLUMNS), flush=True)
    for name, seeds in found.items():
        print(shown_row(name, [averaged(measurements) for measurements in seeds], COLUMNS))
    for name, seeds in found.items():
        if name != LAST:
            print(margin_line(name, seeds, found[LAST]))


def compared(recipe: Path, choices: Sequence[str], seed: int, work: Path) -> dict[str, tuple[int, Measurements]]:
    """Name → (step, measurements) of the last candidate and of the best by each choice, such as `subject, prompt`."""
    encoder, judge = open_encoder(encoder_path(), torch.device("cpu")), trained_judge()
    sections = {LAST: "select={keep: last}"}
    for by in choices:
        sections[f"best by {by}"] = f"select={{by: [{by}], clip: {{path: embedded}}}}"
    at_step: dict[int, Measurements] = {}
    found: dict[str, tuple[int, Measurements]] = {}
    for name, section in sections.items():
        changes = [f"seed={seed}", *NO_PRIORS, *TOO_LONG, section]
        export = run(recipe, changes, f"{name.replace(', ', '_').replace(' ', '_')}.{seed}", work)
        step = chosen_step(export)
        if step not in at_step:
            at_step[step] = measured(export, encoder, judge)
        found[name] = step, at_step[step]
    return found


def measured(export: Path, encoder: Encoder, judge: Judge) -> Measurements:
    """Scores and truths of an export, once for each noise."""
    model = pipeline(export)
    found: Measurements = []
    for noise in range(NOISE, NOISE + MEASUREMENTS):
        scores = {**measured_in_places(model, encoder, judge, "sks", noise),
                  **measured_in_colours(model, encoder, judge, "sks", noise)}
        found.append({**scores, "truth": mean((scores["subject_truth"], scores["prompt_truth"]))})
    return found


def averaged(measurements: Measurements) -> Mapping[str, float]:
    """The mean of each column."""
    return {column: mean(one[column] for one in measurements) for column in COLUMNS}


def margin_line(name: str, best: list[Measurements], last: list[Measurements]) -> str:
    """How far a choice is above the last candidate for each seed, beside the spread of a single measurement."""
    margins = []
    for chosen, final in zip(best, last, strict=True):
        margins.append(averaged(chosen)["truth"] - averaged(final)["truth"])
    above = sum(margin > 0 for margin in margins)
    shown = ", ".join(f"{margin:+.3f}" for margin in margins)
    return (f"{name} beats last by the drawn truth for {above} of {len(margins)} seeds: {shown}; spread over the "
            f"pictures of a measurement {spread_over_seeds([*best, *last], 'truth'):.3f}")


def chosen_step(export: Path) -> int:
    """Step of the candidate that was exported."""
    document = json.loads(read_header(export / "pytorch_lora_weights.safetensors").metadata["dbrun"])
    return int(document["selected"]["step"])


if __name__ == "__main__":
    main()
