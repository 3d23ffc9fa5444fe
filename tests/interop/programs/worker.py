"""Runs one program's loaders in a process of its own: requests and answers are lines of JSON.

Started by loaders.py as `python worker.py PROGRAM CHECKOUT`. A request holds a method of the program's `Reader` and its
arguments; an answer holds `result` or `error`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main() -> None:
    """Answer requests until the input ends."""
    program, checkout = sys.argv[1:3]
    # the programs print what they like: answers go to the real output, everything else to the log
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reader = importlib.import_module(f"{program}_reader").Reader(Path(checkout))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(reader, request.pop("method"))(**request)}
        # the program's own errors are results here: a file may be refused
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
