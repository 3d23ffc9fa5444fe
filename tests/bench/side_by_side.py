"""The same work by dbrun and by diffusers' script: CPU seconds of whole runs, and CPU milliseconds of a step.

    python tests/bench/side_by_side.py [--peer PATH] [--size SIZE] [--steps 200] [--classes 20] [--base embedded]
                                       [--side 64]

PATH: a checkout of huggingface/diffusers, whose examples/dreambooth/train_dreambooth_lora.py runs; nothing of it is
copied. Both start from one base (`small_base.py`, or the embedded one) and the embedded pictures, with LoRA of rank 4
on attention, and draw class images four at a time by 50 steps. A whole run of dbrun includes its export, which draws
two pictures more. A step's milliseconds are the difference of a long and a short training for which the class images
are there already.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])

from bench.rounds import ROOT, Numbers, checkouts, comparing_arguments, cpu_seconds, in_turns, print_table, write_json
from bench.small_base import write_small_base

EMBEDDED = ROOT / "dbrun" / "embedded"
SHORT = 20
"""Steps of the short training."""
SIZES = {"1 row": (1, False), "1 + 1 rows": (1, True), "4 + 4 rows": (4, True)}
"""Name of a micro-batch -> its instance rows, and whether there are as many class rows."""
RECIPE = """schema: dbrun/v1
name: side
base: {{type: sd, path: {base}}}
subject: {{images: "embedded:sks_dog", instance_prompt: a photo of sks dog, class_prompt: {class_prompt}}}
images: {{resolution: {side}}}
adapt: {{denoiser: {{type: lora, rank: 4, alpha: 4, targets: attention}}}}
train: {{steps: {steps}, learning_rate: {learning_rate}, batch_size: {rows}}}
samples: {{prompts: [a photo of sks dog], steps: 10}}
export: [diffusers]
"""
PRIOR = "prior: {{count: {classes}, steps: 50, guidance: 7.5}}\n"


class Work(NamedTuple):
    """A training of so many steps and rows; classes: number of class images, 0 for a training without; side: pixels."""

    steps: int
    rows: int
    classes: int
    side: int = 64
    learning_rate: str = "1.0e-4"


class Program(NamedTuple):
    """A program to measure. words: its command for some work in a folder; reuses: whether it finds what it has done."""

    words: Callable[[Path, Work], Sequence[str]]
    checkout: Path
    reuses: bool


def dbrun_words(base: Path, folder: Path, work: Work) -> Sequence[str]:
    """A command that trains by dbrun in a folder."""
    recipe = folder / "side.yaml"
    text, class_prompt = RECIPE, "null"
    if work.classes:
        text, class_prompt = RECIPE + PRIOR, "a photo of a dog"
    recipe.write_text(text.format(base=base, class_prompt=class_prompt, **work._asdict()))
    return (sys.executable, "-m", "dbrun", "run", str(recipe))


def peer_words(script: Path, base: Path, folder: Path, work: Work) -> Sequence[str]:
    """A command that trains by diffusers' script in a folder."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    # the script takes every file for a picture, so the captions stay behind
    for picture in sorted((EMBEDDED / "subjects" / "sks_dog").glob("*.png")):
        (pictures / picture.name).write_bytes(picture.read_bytes())
    options = {"pretrained_model_name_or_path": base, "instance_data_dir": pictures,
               "instance_prompt": "a photo of sks dog", "resolution": work.side, "train_batch_size": work.rows,
               "rank": 4, "learning_rate": work.learning_rate, "lr_scheduler": "constant", "lr_warmup_steps": 0,
               "max_train_steps": work.steps, "seed": 0, "output_dir": folder / "trained"}
    words = [sys.executable, str(script)]
    if work.classes:
        words.append("--with_prior_preservation")
        options |= {"class_prompt": "a photo of a dog", "class_data_dir": folder / "classes",
                    "num_class_images": work.classes, "sample_batch_size": 4}
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    return words


def run_seconds(program: Program, folder: Path, work: Work) -> float:
    """CPU seconds that a program takes for some work."""
    return cpu_seconds(program.words(folder, work), program.checkout, folder)


def measure(program: Program, sizes: Sequence[str], steps: int, classes: int, side: int = 64) -> Numbers:
    """CPU seconds of a whole run and of the same again, and CPU milliseconds of a step, at each of these sizes."""
    numbers: dict[str, float] = {}
    for size in sizes:
        rows, has_classes = SIZES[size]
        whole = Work(steps, rows, classes if has_classes else 0, side)
        with tempfile.TemporaryDirectory() as place:
            seconds = partial(run_seconds, program, Path(place))
            cold = seconds(whole)
            again = long = seconds(whole)
            # another learning rate, so that no result but the class images is found
            short = seconds(whole._replace(steps=SHORT, learning_rate="1.1e-4"))
            if program.reuses:
                long = seconds(whole._replace(learning_rate="1.2e-4"))
        numbers[f"{size}: cold run, CPU s"] = cold
        numbers[f"{size}: the same again, CPU s"] = again
        numbers[f"{size}: a step, CPU ms"] = 1e3 * (long - short) / (steps - SHORT)
    return numbers


def main() -> None:
    """Measure in fresh processes, and print."""
    parser = comparing_arguments(__doc__)
    parser.add_argument("--peer", type=Path, help="checkout of huggingface/diffusers")
    parser.add_argument("--size", choices=SIZES, action="append", help="all where none is named")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--side", type=int, default=64, help="pixels of a side; at 64 much of a step is no arithmetic")
    parser.add_argument("--base", choices=("small", "embedded"), default="small")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = EMBEDDED / "weights"
        if given.base == "small":
            base = Path(place)
            write_small_base(base)
        programs = {name: Program(partial(dbrun_words, base), folder, True)
                    for name, folder in checkouts(given.before).items()}
        if given.peer is not None:
            script = given.peer.resolve() / "examples" / "dreambooth" / "train_dreambooth_lora.py"
            programs["diffusers"] = Program(partial(peer_words, script, base), ROOT, False)
        sizes = given.size or list(SIZES)
        measured = {name: partial(measure, program, sizes, given.steps, given.classes, given.side)
                    for name, program in programs.items()}
        found = in_turns(measured, given.rounds, together=given.together)
    print_table(found)
    write_json(found, given.json)


if __name__ == "__main__":
    main()
