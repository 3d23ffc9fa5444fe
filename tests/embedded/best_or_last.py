"""Does `select` choose a better candidate than the last one, by the drawn truth that it never saw?

`python tests/embedded/best_or_last.py recipes/sks_dog.yaml --work FOLDER` trains far too long without prior
preservation, and prints for each seed the chosen step, and the truths of the chosen and of the last candidate. Their
mean counts: a picture should show the subject, and what its prompt says. Best by `prompt` is chosen on prompts that
change the coat in places of the instance pictures; what is measured are other places, with other noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

import torch
from agreement import NO_PRIORS, OTHER_COLOURS, measured_in_colours, measured_in_places, shown_row
from dreambooth import pipeline, run
from judge import NEVER_TRAINED, trained_judge

from dbrun.embedded import encoder_path
from dbrun.embedded.making.places import PLACES
from dbrun.safetensors_header import read_header
from dbrun.scores.encoder import open_encoder

COLUMNS = ("truth", "subject", "subject_truth", "prompt", "prompt_truth")
"""Of the printed table; truth: the mean of those of subject and prompt."""


def select_section(by: str) -> str:
    """The recipe's section `select` for a score: its default prompts, or such as the score can tell candidates by."""
    prompts = ""
    if by == "prompt":
        seen = [place for place in PLACES if place not in NEVER_TRAINED]
        texts = [f"a photo of a {colour} sks dog {seen[number % len(seen)]}"
                 for number, colour in enumerate(OTHER_COLOURS)]
        prompts = f", prompts: [{', '.join(texts)}]"
    return f"select={{by: {by}, clip: {{path: embedded}}{prompts}}}"


def main() -> None:
    """Print a row for each seed and choice, and the means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--by", nargs="+", default=["subject", "prompt"], metavar="SCORE")
    parser.add_argument("--seeds", type=int, default=3)
    # five times the recipe's: after 300 steps without priors the subject already takes few of the colours asked for
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--every", type=int, default=250, help="steps between two candidates")
    words = parser.parse_args()
    torch.set_num_threads(1)
    words.work.mkdir(parents=True, exist_ok=True)
    encoder, judge = open_encoder(encoder_path(), torch.device("cpu")), trained_judge()
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    found: dict[str, list[Mapping[str, float]]] = {}
    choices = {"last": "select={keep: last}"}
    for by in words.by:
        choices[f"best by {by}"] = select_section(by)
    for seed in range(words.seeds):
        at_step: dict[int, Mapping[str, float]] = {}
        for name, select in choices.items():
            changes = [f"seed={seed}", *NO_PRIORS, f"train.steps={words.steps}",
                       f"train.candidates.every={words.every}", select]
            export = run(words.recipe, changes, f"{name.replace(' ', '_')}.{seed}", words.work)
            step = chosen_step(export)
            if step not in at_step:
                model = pipeline(export)
                scores = {**measured_in_places(model, encoder, judge, "sks"),
                          **measured_in_colours(model, encoder, judge, "sks")}
                at_step[step] = {**scores, "truth": mean((scores["subject_truth"], scores["prompt_truth"]))}
            found.setdefault(name, []).append(at_step[step])
            print(shown_row(f"seed {seed}, {name}, step {step}", [at_step[step]], COLUMNS), flush=True)
    for name, runs in found.items():
        print(shown_row(name, runs, COLUMNS), flush=True)
    for name, runs in found.items():
        if name != "last":
            pairs = zip(runs, found["last"], strict=True)
            better = sum(best["truth"] > last["truth"] for best, last in pairs)
            print(f"{name} beats last by the drawn truth for {better} of {words.seeds} seeds")


def chosen_step(export: Path) -> int:
    """Step of the candidate that was exported."""
    document = json.loads(read_header(export / "pytorch_lora_weights.safetensors").metadata["dbrun"])
    return int(document["selected"]["step"])


if __name__ == "__main__":
    main()
