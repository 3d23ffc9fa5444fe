"""Runs of the embedded recipe that are killed at random instants of random stages, finished, and compared.

    python tests/faults/kills.py --kills 200 --work FOLDER

Each attempt has a project of its own in FOLDER, removed once it ended alike, and a line in FOLDER/kills.jsonl; the
same command goes on. A child is forked from a process that has loaded the libraries: what is killed is the work.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "sks_dog.yaml"
SHORT = ("name=short", "prior.count=2", "prior.steps=2", "subject.class_prompt=[a dog, a photo of a dog]",
         "train.steps=6", "train.checkpoint_every=2", "train.batch_size=1", "samples.steps=2",
         "samples.prompts=[a photo of sks dog]", "device=cpu", "threads=1")
LONGER = (*SHORT, "train.steps=10")
STAGES = ("load", "adapt", "generate-priors", "preprocess", "train", "export")


def warm() -> None:
    """Load what a run loads, so that forked runs need not."""
    import accelerate  # noqa: F401
    import diffusers
    import peft  # noqa: F401
    import torch
    import transformers

    import dbrun.training.loop  # noqa: F401

    torch.set_num_threads(1)
    _ = (diffusers.StableDiffusionPipeline, diffusers.UNet2DConditionModel, diffusers.AutoencoderKL,
         diffusers.DDIMScheduler, transformers.CLIPTextModel, transformers.CLIPTokenizer)


@dataclass
class Child:
    """A run in a forked process; its events come through a pipe."""

    pid: int
    events: int

    @classmethod
    def start(cls, project: Path, words: tuple[str, ...]) -> Child:
        """Fork `dbrun WORDS` in a folder."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            return cls(pid, reading)
        code = 70
        try:
            os.setsid()
            os.chdir(project)
            os.environ["DBRUN_STORE"] = str(project / "store")
            log = os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(writing, 1)
            os.dup2(log, 2)
            # under pytest these are files of its own, not the descriptors
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            from dbrun.cli import main

            sys.argv = ["dbrun", *words]
            main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def moves(self) -> Iterator[dict[str, object]]:
        """The events, until the process is gone."""
        with os.fdopen(self.events) as lines:
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:
                    return

    def kill(self) -> None:
        """SIGKILL to it and its children."""
        os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def finish(project: Path, *words: str) -> dict[str, float]:
    """Run to the end; the seconds that each stage took. Raises AssertionError where it does not end well."""
    child = Child.start(project, ("run", str(RECIPE), *words, "--json"))
    took = {str(e["stage"]): float(str(e["seconds"])) for e in child.moves() if e["event"] == "stage_finished"}
    code = child.wait()
    assert code == 0, f"exit {code}: {(project / 'stderr').read_text()[-2000:]}"
    return took


def killed(project: Path, words: tuple[str, ...], stage: str, seconds: float) -> bool:
    """Kill a run so many seconds after a stage began; False where it was through before."""
    child = Child.start(project, ("run", str(RECIPE), *words, "--json"))
    for event in child.moves():
        if event["event"] == "stage_started" and event["stage"] == stage:
            time.sleep(seconds)
            child.kill()
    return child.wait() == -signal.SIGKILL


def exported(project: Path) -> dict[str, bytes]:
    """Every exported file but dbrun.json and report.html, which tell times."""
    home = project / "outputs" / "short"
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in sorted(home.rglob("*"))
            if p.is_file() and p.name not in ("dbrun.json", "report.html")}


@dataclass
class Harness:
    """folder: for projects and the record; whole: what undisturbed runs export; took: how long their stages take."""

    folder: Path
    whole: dict[tuple[str, ...], dict[str, bytes]]
    took: dict[str, float]

    @classmethod
    def ready(cls, folder: Path) -> Harness:
        """Run both recipes undisturbed."""
        warm()
        whole, took = {}, {}
        for words in (SHORT, LONGER):
            project = fresh(folder / "whole")
            took = finish(project, *words)
            whole[words] = exported(project)
            shutil.rmtree(project)
        return cls(folder, whole, took)

    def attempt(self, number: int) -> int:
        """Kill, perhaps kill again, finish, compare; the kills that struck."""
        draw = random.Random(number)
        project, struck = fresh(self.folder / f"attempt-{number}"), 0
        words = SHORT
        if draw.random() < 0.2:
            # the longer run goes on from what the short one left
            finish(project, *SHORT)
            words = LONGER
        for _ in range(draw.choice((1, 1, 2, 3))):
            stage = draw.choice(STAGES[4:] if words is LONGER else STAGES)
            struck += killed(project, words, stage, draw.uniform(0, 1.1 * self.took[stage]))
        finish(project, *words)
        assert exported(project) == self.whole[words], f"{project} exports other bytes"
        assert finish(project, *words) == {}, f"{project} runs stages again"
        assert not list((project / "store" / "tmp").iterdir()), f"{project} keeps leftovers"
        verify = Child.start(project, ("verify",))
        said = list(verify.moves())
        assert verify.wait() == 0, f"{project} is damaged: {said}"
        shutil.rmtree(project)
        return struck


def fresh(project: Path) -> Path:
    """An empty project folder."""
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir(parents=True)
    return project


def main() -> int:
    """Go on until there were so many kills; 1 if any run ended otherwise."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--kills", type=int, default=200)
    asked.add_argument("--work", type=Path, required=True)
    words = asked.parse_args()
    words.work.mkdir(parents=True, exist_ok=True)
    record = words.work.absolute() / "kills.jsonl"
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    harness = Harness.ready(words.work.absolute())
    while sum(entry["kills"] for entry in done) < words.kills:
        number, began = len(done), time.monotonic()
        try:
            entry = {"attempt": number, "kills": harness.attempt(number), "failed": None}
        except AssertionError as error:
            entry = {"attempt": number, "kills": 1, "failed": str(error)}
        done.append({**entry, "seconds": round(time.monotonic() - began, 1)})
        with record.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    bad = [entry for entry in done if entry["failed"]]
    sys.stdout.write(f"{sum(e['kills'] for e in done)} kills in {len(done)} attempts, {len(bad)} ended otherwise\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
