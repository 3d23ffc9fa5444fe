"""Measurements side by side: commands take turns, medians of their numbers become a table, and JSON where asked for."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

ROOT = Path(__file__).parents[2]
Numbers = Mapping[str, float]
"""What one measurement gives: name with its unit -> number."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser of a measurement that is done in rounds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers of every round into this file")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def comparing_arguments(description: str | None) -> argparse.ArgumentParser:
    """The parser of a measurement in rounds of which each compares fresh processes, and another checkout if asked."""
    parser = arguments(description)
    parser.add_argument("--before", type=Path, help="another checkout of dbrun, to compare with")
    parser.add_argument("--together", action="store_true",
                        help="run all at the same time, each on a core of its own, another one in each round")
    return parser


def checkouts(before: Path | None) -> dict[str, Path]:
    """Name -> folder of the checkouts to measure."""
    found = {"this": ROOT}
    if before is not None:
        found = {"before": before.resolve(), **found}
    return found


def in_turns(measured: Mapping[str, Callable[[], Numbers]], rounds: int, *,
             together: bool = False) -> dict[str, list[Numbers]]:
    """The numbers of each command in each round. They take turns, so that a busy minute spoils no single one.

    together: they run at the same time, each on one core, and swap cores from round to round: for a machine whose
    speed changes within the minutes of a turn. Raises ValueError where there are fewer cores than commands.
    """
    found: dict[str, list[Numbers]] = {name: [] for name in measured}
    for number in range(rounds):
        results = _at_once(measured, number) if together else _one_by_one(measured)
        for name, numbers in results:
            found[name].append(numbers)
            print(f"round {number + 1} of {rounds}: {name} {numbers}", file=sys.stderr, flush=True)
    return found


def _one_by_one(measured: Mapping[str, Callable[[], Numbers]]) -> Iterator[tuple[str, Numbers]]:
    for name, measure in measured.items():
        yield name, measure()


def _at_once(measured: Mapping[str, Callable[[], Numbers]], number: int) -> Iterator[tuple[str, Numbers]]:
    """number: of the round, by which they swap cores."""
    cores = sorted(os.sched_getaffinity(0))[:len(measured)]
    if len(cores) < len(measured):
        raise ValueError(f"{len(measured)} commands want as many cores, and there are {len(cores)}")
    own = cores[number % len(cores):] + cores[:number % len(cores)]
    with ThreadPoolExecutor(len(measured)) as pool:
        yield from zip(measured, pool.map(_pinned, measured.values(), own), strict=True)


def _pinned(measure: Callable[[], Numbers], core: int) -> Numbers:
    """Measure, with all processes that this starts on one core."""
    # of this thread alone, and of what it starts
    os.sched_setaffinity(0, {core})
    return measure()


def medians(rounds: Sequence[Numbers]) -> dict[str, float]:
    """The median of each number over the rounds."""
    return {name: median(numbers[name] for numbers in rounds) for name in rounds[0]}


def print_table(found: Mapping[str, Sequence[Numbers]]) -> None:
    """Print the medians: a column for each command, and its ratio to the first one where that has the number, too."""
    columns = {name: medians(rounds) for name, rounds in found.items()}
    first = next(iter(columns.values()))
    print(f"{'':40}" + "".join(f"{name:>18}" for name in columns))
    # one command may have a number that another lacks, such as the seconds of a stage that came later
    rows: dict[str, None] = {}
    for numbers in columns.values():
        rows.update(dict.fromkeys(numbers))
    for row in rows:
        cells = [_cell(numbers.get(row), first.get(row), is_first=numbers is first) for numbers in columns.values()]
        print(f"{row:40}" + "".join(f"{cell:>18}" for cell in cells))


def _cell(number: float | None, first: float | None, *, is_first: bool) -> str:
    if number is None:
        return ""
    if is_first or not first:
        return f"{number:.2f}"
    return f"{number:.2f} {number / first:6.2f}x"


def compare_checkouts(measure: Callable[[Path], Numbers], given: argparse.Namespace) -> None:
    """Measure each checkout in turns, print the table, and write JSON. given: as `comparing_arguments` reads them."""
    measured = {name: partial(measure, folder) for name, folder in checkouts(given.before).items()}
    found = in_turns(measured, given.rounds, together=given.together)
    print_table(found)
    write_json(found, given.json)


def write_json(found: object, file: Path | None) -> None:
    """Write the numbers of all rounds, if a file is asked for."""
    if file is not None:
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def environment(checkout: Path) -> dict[str, str]:
    """The environment in which a process imports dbrun from this checkout. Each process has one thread, as a recipe."""
    # a script's own libraries stay on the path, behind the checkout
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def cpu_seconds(words: Sequence[str], checkout: Path, folder: Path) -> float:
    """CPU seconds of a command and its children, with a checkout's dbrun. Exits with what it said where it fails."""
    with TemporaryFile() as said:
        process = subprocess.Popen(words, env=environment(checkout), cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        # of this process and those that it waited for, whatever runs beside it
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(words)}\n{said.read().decode()[-6000:]}")
    return usage.ru_utime + usage.ru_stime
