"""A graph of jobs as a text for other programs: a Makefile, a Snakefile, or a script that calls sbatch."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from dbrun.engines.base import Job
from dbrun.errors import UsageError

STOP_SECONDS = 60
"""Seconds before the end of a Slurm job's time in which it writes a checkpoint."""
MEBIBYTE = 2**20
TIME_SLACK, MEMORY_SLACK = 2.0, 1.5
"""What a job is given, as a multiple of what earlier runs say."""
SHORTEST_MINUTES = 10
"""Time that a job is given at least: importing torch from a busy file system takes minutes."""


def makefile(jobs: Sequence[Job]) -> str:
    """Makefile: `make -j2 -k` runs two jobs at a time, and goes on with others where one fails."""
    lines = ["# Written by dbrun jobs. Run it in this folder: make -j2 -k -f FILE",
             "# A job whose results stand does nothing, so the same command goes on after a stop.",
             f".PHONY: {' '.join(['all', *(job.id for job in jobs)])}",
             f"all: {' '.join(job.id for job in jobs)}".rstrip()]
    for job in jobs:
        # make reads `$` before the shell does; a line break would begin another command
        command = _one_line(job).replace("$", "$$")
        lines += [f"{job.id}: {' '.join(job.needs)}".rstrip(), f"\t{command}"]
    return "\n".join(lines) + "\n"


def snakefile(jobs: Sequence[Job]) -> str:
    """Snakefile: a rule for each job, which needs the marks that those before it left in `.snakemake`."""
    # a folder for each text: marks of an earlier one would hide that a result was removed since
    folder = time.strftime(".snakemake/dbrun/%Y%m%d-%H%M%S")
    marks = {job.id: f"{folder}/{job.id}" for job in jobs}
    lines = ["# Written by dbrun jobs. Run it in this folder: snakemake --cores 2 --resources gpu=1 -k -s FILE",
             "rule all:", f"    input: {list(marks.values())!r}"]
    for number, job in enumerate(jobs):
        resources = {"gpu": job.gpus, **_limits(job)}
        # doubled: snakemake reads what is between braces
        command = shlex.join(job.command).replace("{", "{{").replace("}", "}}")
        needs = [marks[name] for name in job.needs]
        lines += ["", f"rule job_{number}:", f"    input: {needs!r}", f"    output: touch({marks[job.id]!r})",
                  f"    resources: {', '.join(f'{name}={value}' for name, value in resources.items())}",
                  f"    shell: {command!r}"]
    return "\n".join(lines) + "\n"


def sbatch_script(jobs: Sequence[Job]) -> str:
    """Shell script: submits every job to Slurm, each after those that it needs."""
    variables = {job.id: f"job_{number}" for number, job in enumerate(jobs)}
    lines = ["#!/bin/sh", "# Written by dbrun jobs. Submits the jobs from this folder: sh FILE",
             "# Options for all of them: SBATCH_PARTITION, SBATCH_ACCOUNT … in the environment.", "set -e"]
    for job in jobs:
        after = [f"${variables[name]}" for name in job.needs]
        dependency = f" --dependency=afterok:{':'.join(after)}" if after else ""
        options = shlex.join(["sbatch", "--parsable", *sbatch_options(job)])
        text = batch_text(job.command)
        lines += ["", f"{variables[job.id]}=$({options}{dependency} <<'DBRUN_JOB'", text.rstrip("\n"), "DBRUN_JOB", ")"]
    lines += ["", f"echo {shlex.quote(f'{len(jobs)} jobs submitted')}"]
    return "\n".join(lines) + "\n"


def sbatch_options(job: Job) -> list[str]:
    """Options of sbatch for a job: its name, what it needs, and that it may be started again.

    The signal goes to the batch shell (`B:`), which hands it on; without B it would go to steps of srun only. A job
    whose dependency failed would stay in the queue for ever, if it were not killed.
    """
    options = [f"--job-name={job.id}", "--requeue", f"--signal=B:TERM@{STOP_SECONDS}", "--kill-on-invalid-dep=yes"]
    if job.gpus:
        options.append(f"--gpus={job.gpus}")
    limits = _limits(job)
    if "mem_mb" in limits:
        options.append(f"--mem={limits['mem_mb']}M")
    if "runtime" in limits:
        options.append(f"--time={limits['runtime']}")
    return options


def batch_text(command: Sequence[str]) -> str:
    """Batch script of one command for Slurm.

    SIGTERM makes dbrun write a checkpoint and exit with 143; the job is then queued again, and goes on from there. One
    that was cancelled gets SIGTERM, too, and Slurm would queue it again all the same: it is COMPLETING by then.
    `wait` returns when the trap has run, so it is repeated until the process has ended.
    """
    # `$!` and no variable of our own, which a signal could find unset when the process has begun
    lines = ["#!/bin/sh", "trap 'if [ -n \"$!\" ]; then kill -TERM \"$!\"; else exit 143; fi' TERM",
             f"{shlex.join(command)} &", 'wait "$!"', "code=$?",
             'while kill -0 "$!" 2>/dev/null; do wait "$!"; code=$?; done',
             'if [ "$code" -eq 143 ]; then', '  case "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")" in',
             "    COMPLETING | CANCELLED) ;;", '    *) scontrol requeue "$SLURM_JOB_ID" ;;', "  esac", "fi",
             'exit "$code"']
    return "\n".join(lines) + "\n"


FORMS: Mapping[str, Callable[[Sequence[Job]], str]] = {"make": makefile, "snakemake": snakefile,
                                                       "slurm": sbatch_script}
"""Value of `--as` → the function that writes it."""


def _limits(job: Job) -> dict[str, int]:
    """Memory in MiB and minutes of a job, where they are known. Memory of a GPU is none that a scheduler hands out."""
    return dict(_known_limits(job))


def _known_limits(job: Job) -> Iterator[tuple[str, int]]:
    if job.memory is not None and not job.gpus:
        yield "mem_mb", round(job.memory * MEMORY_SLACK / MEBIBYTE) + 1
    if job.seconds is not None:
        yield "runtime", max(SHORTEST_MINUTES, round(job.seconds * TIME_SLACK / 60))


def _one_line(job: Job) -> str:
    """The command as one line of shell. Raises UsageError for a word with a line break."""
    for word in job.command:
        if "\n" in word or "\r" in word:
            raise UsageError(f"{job.title}: found a line break in {word!r:.60}, and a Makefile has one command a line",
                             fix="write it as \\n in double quotes, or use --as slurm or --json")
    return shlex.join(job.command)
