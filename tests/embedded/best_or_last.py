"""Does `select` choose a better candidate than the last one, by the drawn truth that it never saw?

`python tests/embedded/best_or_last.py recipes/sks_dog.yaml --work FOLDER` trains far too long without prior
preservation, and prints for each seed the chosen step, and the truths of the chosen and of the last candidate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from agreement import NO_PRIORS, measured, shown_row
from dreambooth import pipeline, run
from judge import trained_judge

from dbrun.embedded import encoder_path
from dbrun.safetensors_header import read_header
from dbrun.scores.encoder import open_encoder

STEPS = 1500
EVERY = 250
COLUMNS = ("subject", "subject_truth", "prompt", "prompt_truth", "diversity_truth")


def main() -> None:
    """Print two rows for each score and seed, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--by", nargs="+", default=["subject", "prompt"], metavar="SCORE")
    parser.add_argument("--seeds", type=int, default=3)
    words = parser.parse_args()
    torch.set_num_threads(1)
    words.work.mkdir(parents=True, exist_ok=True)
    encoder, judge = open_encoder(encoder_path(), torch.device("cpu")), trained_judge()
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    found: dict[str, list[Mapping[str, float]]] = {}
    for seed in range(words.seeds):
        choices = {"last": "select={keep: last}"}
        for by in words.by:
            choices[f"best by {by}"] = f"select={{by: {by}, clip: {{path: embedded}}}}"
        for name, select in choices.items():
            changes = [f"seed={seed}", *NO_PRIORS, f"train.steps={STEPS}", f"train.candidates.every={EVERY}", select]
            export = run(words.recipe, changes, f"{name.replace(' ', '_')}.{seed}", words.work)
            scores = measured(pipeline(export), encoder, judge, "sks")
            found.setdefault(name, []).append(scores)
            print(shown_row(f"seed {seed}, {name}, step {chosen_step(export)}", [scores], COLUMNS), flush=True)
    for name, runs in found.items():
        print(shown_row(name, runs, COLUMNS), flush=True)


def chosen_step(export: Path) -> int:
    """Step of the candidate that was exported."""
    document = json.loads(read_header(export / "pytorch_lora_weights.safetensors").metadata["dbrun"])
    return int(document["selected"]["step"])


if __name__ == "__main__":
    main()
