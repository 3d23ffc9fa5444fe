"""What other programs' own loaders make of our files: a table, or the names of layers that they look for.

    python tests/interop/loaders.py --comfyui PATH --a1111 PATH --forge PATH --kohya PATH [--python PYTHON]

PATH: a checkout of ComfyUI, AUTOMATIC1111/stable-diffusion-webui, lllyasviel/stable-diffusion-webui-forge (with
lllyasviel/huggingface_guess in its `repositories/`), kohya-ss/sd-scripts; nothing of them is copied or changed. PYTHON:
runs them; it needs torch, safetensors, einops, accelerate, psutil, transformers < 5 and diffusers (for LyCORIS
lycoris-lora). `older diffusers` is the diffusers of PYTHON, the other that of this environment. A cell is
`applied/changed error`: of the tensors that the merged weights change, those that the loader changes too, and the
largest |W'_loader - W'_merged| / |W' - W| among them. `detect` lines say what ComfyUI and Forge take a checkpoint of
the published size for. With --show FILE … A1111 says what it shows of these adapters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])

from cases import ADAPTERS, PRESETS, WHOLE, Case, cases, write_checkpoint, write_probes
from layer_names import write_names
from published_layouts import LAYOUTS, PublishedLayout

from dbrun.models.ldm_layouts import V_PREDICTION_MARK, ZERO_SNR_MARK

HERE = Path(__file__).parent
CHECKOUTS = ("comfyui", "a1111", "forge", "kohya")
SHRINKING = ("comfyui", "forge", "kohya", "lycoris")
"""Programs with the published widths in their code, which must be told the small ones."""
DETECTING = ("comfyui", "forge")
"""Programs that tell the kinds of checkpoints apart by their tensors."""
OLDER_DIFFUSERS = "older diffusers"
FOLDERS = ("diffusers", OLDER_DIFFUSERS)
"""Programs that read folders in diffusers format in place of checkpoints of one file."""
TOLERANCE = 1e-4


class ProgramFailed(Exception):
    """The program's own error for a request."""


class Worker:
    """A program in a process of its own."""

    def __init__(self, program: str, checkout: Path, python: str, log: Path) -> None:
        self.program = program
        reader = program.rpartition(" ")[2]
        command = [python, str(HERE / "programs" / "worker.py"), reader, str(checkout)]
        with log.open("w") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                            text=True)
        self.log = log

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the program's `Reader`. Raises ProgramFailed with the program's own error."""
        assert self.process.stdin and self.process.stdout
        request = {"method": method, **arguments}
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.program} ended:\n{self.log.read_text()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise ProgramFailed(answer["error"])
        return answer["result"]


@contextmanager
def started(program: str, checkout: Path, python: str, work: Path) -> Iterator[Worker]:
    """Context manager: a worker; it ends on exit."""
    worker = Worker(program, checkout, python, work / f"{program}.log")
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def cell(worker: Worker, word: str, base: Path, case: Case, file: Path) -> str:
    """One program's answer for one file."""
    checkpoint, merged = _checkpoints(worker, base, case)
    try:
        found = worker.ask("adapter", layout=word, base=checkpoint, merged=merged, file=file)
    except ProgramFailed as error:
        return f"refused: {str(error)[:60]}"
    text = f"{found['applied']}/{found['changed']} {found['error']:.0e}"
    if found["error"] > TOLERANCE:
        text += f" ({found['worst']})"
    if found["missed"]:
        text += f", misses {found['missed'][0]} …"
    if found["stray"]:
        text += f", changes {found['stray']} others"
    return text


def _checkpoints(worker: Worker, base: Path, case: Case) -> tuple[Path, Path]:
    """Base and merged weights in the form that a program reads."""
    if worker.program in FOLDERS:
        return base, case.folder / "merged"
    return case.base, case.merged


def print_table(word: str, base: Path, checkpoint: Path, work: Path, workers: list[Worker],
                arguments: argparse.Namespace) -> None:
    """Print a line for each adapter, preset and file."""
    layout = LAYOUTS[word]
    for case in cases(layout, base, checkpoint, work / "cases", arguments.adapters, arguments.presets):
        for form, file in case.files.items():
            if form in WHOLE:
                continue
            cells = [f"{worker.program} {cell(worker, word, base, case, file)}" for worker in workers]
            print(f"{layout.name} | {case.adapter} | {case.preset} | {form} | {' | '.join(cells)}", flush=True)
        for worker in workers:
            worker.ask("forget", merged=_checkpoints(worker, base, case)[1])


def print_detection(layout: PublishedLayout, worker: Worker) -> None:
    """Print what a program takes our checkpoint for, at the published size."""
    shapes = layout.true_shapes()
    for marks in ([], [V_PREDICTION_MARK, ZERO_SNR_MARK]):
        found = worker.ask("detect", shapes=shapes, marks=marks)
        print(f"{layout.name} | {worker.program} detect {' '.join(marks)} | {found}", flush=True)


def record_names(workers: list[Worker], work: Path, sources: Mapping[str, str]) -> None:
    """Write names.json anew for these programs. sources: program -> what it was read from, and the date."""
    found: dict[str, dict[str, list[str]]] = {worker.program: {} for worker in workers}
    for word, layout in LAYOUTS.items():
        probes, shapes = write_probes(layout, work / word), layout.true_shapes()
        text = [layout.config(name) for name in layout.family.text_encoders]
        for worker in workers:
            taken: set[str] = set()
            for file, names in probes.values():
                alphas = worker.ask("taken", layout=word, shapes=shapes, file=file, text=text)
                taken |= {names[int(alpha)] for alpha in alphas}
            found[worker.program][word] = sorted(taken)
    for program, names_of in found.items():
        source, _, date = sources[program].rpartition(" ")
        write_names(program, source, date, names_of)


def main() -> None:
    """Run the programs that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for program in CHECKOUTS:
        parser.add_argument(f"--{program}", type=Path, help="a checkout")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the checkouts")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=list(ADAPTERS))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--record-names", nargs="+", metavar="PROGRAM=SOURCE DATE", default=[],
                        help="write names.json in place of the table, such as 'kohya=kohya-ss/sd-scripts@48d368f "
                             "2026-02-16'")
    parser.add_argument("--show", nargs="+", type=Path, default=[], help="adapters that --a1111 is asked about")
    arguments = parser.parse_args()
    if arguments.show and not arguments.a1111:
        parser.error("--show asks A1111: name its checkout, --a1111 PATH")
    checkouts = {program: vars(arguments)[program] for program in CHECKOUTS if vars(arguments)[program]}
    pythons = dict.fromkeys(checkouts, arguments.python)
    if "kohya" in checkouts and not arguments.record_names:
        checkouts["lycoris"], pythons["lycoris"] = checkouts["kohya"], arguments.python
    if not arguments.record_names:
        checkouts["diffusers"], pythons["diffusers"] = HERE, sys.executable
        if arguments.python != sys.executable:
            checkouts[OLDER_DIFFUSERS], pythons[OLDER_DIFFUSERS] = HERE, arguments.python
    with TemporaryDirectory() as folder, ExitStack() as stack:
        work = Path(folder)
        workers = [stack.enter_context(started(program, checkout, pythons[program], work))
                   for program, checkout in checkouts.items()]
        if arguments.show:
            for file in arguments.show:
                print(file, workers[list(checkouts).index("a1111")].ask("shown", file=file), flush=True)
            return
        if arguments.record_names:
            record_names(workers, work, dict(entry.split("=", 1) for entry in arguments.record_names))
            return
        for worker in workers:
            if worker.program in DETECTING:
                for word in arguments.layouts:
                    print_detection(LAYOUTS[word], worker)
            if worker.program in SHRINKING:
                for word in arguments.layouts:
                    worker.ask("shrink", layout=word, **LAYOUTS[word].widths())
        for word in arguments.layouts:
            LAYOUTS[word].write_small_base(work / word)
            checkpoint = write_checkpoint(LAYOUTS[word], work / word, work / f"{word}-checkpoint")
            print_table(word, work / word, checkpoint, work, workers, arguments)


if __name__ == "__main__":
    main()
