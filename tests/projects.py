"""Projects on a tiny base of the real classes, and dbrun as a user calls it."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fork_server import run_dbrun
from PIL import Image, ImageDraw

RECIPE = """\
schema: dbrun/v1
name: tiny
base: {type: sd, path: base}
subject:
  images: pictures
  instance_prompt: a photo of sks dog
  class_prompt: a photo of a dog
prior: {count: 3, weight: 1.0, steps: 2, guidance: 2.0}
images: {resolution: 32}
adapt:
  denoiser: {type: lora, rank: 2, alpha: 4, targets: all}
train: {steps: 6, learning_rate: 1.0e-2, batch_size: 2, checkpoint_every: 2}
samples: {steps: 2, guidance: 2.0, prompts: [a photo of sks dog, a photo of a dog]}
export: [diffusers, peft]
device: cpu
threads: 1
seed: 0
"""


STAGES = {"load", "adapt", "generate-priors", "preprocess", "train", "export"}
"""The stages that the tests of the whole path speak of; a stage that comes later has tests of its own."""


def picture(path: Path, hue: int) -> None:
    image = Image.new("RGB", (48, 40), (hue, 120, 200))
    ImageDraw.Draw(image).ellipse((8, 6, 34, 30), fill=(200, hue, 40))
    image.save(path)


@dataclass
class Project:
    """A folder in which dbrun is run as a user would."""

    folder: Path

    def dbrun(self, *words: str, check: int | None = 0, env: dict[str, str] | None = None, real: bool = False,
              ) -> subprocess.CompletedProcess[str]:
        """`dbrun WORDS` in this folder; check: the exit code asked for, None for any; real: never forked."""
        done = run_dbrun(words, cwd=self.folder, env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})}, real=real)
        if check is not None:
            assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def exported(self, name: str = "tiny") -> dict[str, bytes]:
        """Every exported file but dbrun.json and report.html, which hold times."""
        home = self.folder / "outputs" / name
        return {str(p.relative_to(home)): p.read_bytes() for p in sorted(home.rglob("*"))
                if p.is_file() and p.name not in ("dbrun.json", "report.html")}


def lay_out(folder: Path) -> Project:
    """A fresh project: a tiny base, three pictures, three others of their class, a recipe."""
    from dbrun.models.base import families

    folder.mkdir(parents=True, exist_ok=True)
    families()["sd"].write_tiny_base(folder / "base")
    for name, hue in (("pictures", 0), ("others", 25)):
        (folder / name).mkdir()
        for i in range(3):
            picture(folder / name / f"{i}.png", 60 * i + hue)
    (folder / "tiny.yaml").write_text(RECIPE)
    return Project(folder)


SECRET = "hf_" + "s3cretS3CRET" * 3
"""A token in the environment of the shared run, which no file may hold."""

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")


def cpu_and_heavy(folder: Path, *words: str) -> tuple[float, list[str]]:
    """`dbrun WORDS`: its least CPU time of four starts, and the heavy packages that it loaded.

    The time is in those that importing pydantic and typer alone takes beside it: seconds differ from machine to
    machine, and on one machine from hour to hour.
    """
    program = (f"import sys\nsys.argv = ['dbrun', *{words!r}]\nfrom dbrun.cli import main\n"
               "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n")
    own, alone = [], []
    with tempfile.TemporaryDirectory() as bytecode:
        for _ in range(4):
            alone.append(_cpu(folder, "import sys, typer\nfrom pydantic import BaseModel, TypeAdapter\n", bytecode)[0])
            cpu, heavy = _cpu(folder, program, bytecode)
            own.append(cpu)
    return min(own) / min(alone), heavy


def _cpu(folder: Path, program: str, bytecode: str) -> tuple[float, list[str]]:
    told = ("import resource\nu = resource.getrusage(resource.RUSAGE_SELF)\n"
            f"print(u.ru_utime + u.ru_stime, *[m for m in {HEAVY!r} if m in sys.modules])")
    # compiled by the first start, as an installed package is by pip, whatever the environment says of bytecode
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
    done = subprocess.run([sys.executable, "-c", program + told], cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    cpu, *heavy = done.stdout.splitlines()[-1].split()
    return float(cpu), heavy
