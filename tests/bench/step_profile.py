"""A training step: dbrun's loop against the shortest one, its share of the matmul rate, and its work beside the model.

    python tests/bench/step_profile.py [--tensors 1120] [--steps 60] [--before PATH] [--json FILE]

The first table is of work beside the model (`host_work.py`), with --before that of another checkout, too. The second is
of both loops (`loops.py`) on the embedded base, on one thread, at three sizes of a micro-batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])

import torch
from bench.loops import measure_loops
from bench.rounds import Numbers, checkouts, comparing_arguments, environment, in_turns, print_table, write_json

BLOCKS_A_ROUND = 4
"""Blocks of steps of each loop in a round."""


def host_work(checkout: Path, tensors: int, steps: int) -> Numbers:
    """The numbers of `host_work.py` in a fresh process, with a checkout's dbrun. Exits with its error if it fails."""
    script = Path(__file__).with_name("host_work.py").resolve()
    words = (sys.executable, str(script), "--tensors", str(tensors), "--steps", str(steps))
    done = subprocess.run(words, env=environment(checkout), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    numbers: Numbers = json.loads(done.stdout)
    return numbers


def main() -> None:
    """Measure, and print."""
    parser = comparing_arguments(__doc__)
    parser.add_argument("--tensors", type=int, default=1120)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    measured = {name: partial(host_work, folder, given.tensors, given.steps)
                for name, folder in checkouts(given.before).items()}
    beside = in_turns(measured, given.rounds, together=given.together)
    print_table(beside)
    torch.set_num_threads(1)
    loops = measure_loops(BLOCKS_A_ROUND * given.rounds)
    print_table(loops)
    write_json({"host work": beside, "loops": loops}, given.json)


if __name__ == "__main__":
    main()
