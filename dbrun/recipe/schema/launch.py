"""The recipe section `launch`: how many processes and machines share a run, and whether they can share it evenly."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Int, Part
from dbrun.errors import KeyProblem

Threads = Annotated[Int, Field(ge=1, le=1024)] | Literal["auto"]
"""Value of `threads`: a number of CPU threads, or `auto` for all cores of the machine."""


class Launch(Part):
    """How many processes share the work. With `accumulation` above 1 and `reduce: exact` this changes no result, so
    nothing is computed again when it changes.

    The micro-batches of a step are distributed over the processes, and their gradients are added in the order of the
    micro-batches, so that any number of processes gives the same bytes. A batch of 4 on each of 2 GPUs is written as
    `batch_size: 4, accumulation: 2` and `processes: 2`. Class images and pictures are distributed one by one.
    `torchrun`, `accelerate launch` or `srun` may start the processes instead; then their number counts. Where a step
    has one micro-batch (`accumulation: 1`), it gets one for each process.
    """

    # one process and one machine are the default of every run from before this section
    NEUTRAL: ClassVar[dict[str, object]] = {"processes": 1, "machines": 1, "reduce": "exact"}

    processes: Annotated[Int, Field(ge=1, le=4096)] = 1
    """Number of processes on all machines together; each has its own GPU, or `threads` CPU threads. It must divide
    `train.accumulation`, since each process computes an equal share of a step's micro-batches; `accumulation: 1`
    becomes this number."""
    machines: Annotated[Int, Field(ge=1, le=4096)] = 1
    """Number of machines. For more than one, start `torchrun` on each, with one store that all of them can access
    (DBRUN_STORE)."""
    reduce: Literal["exact", "fast"] = "exact"
    """How gradients are added. exact: in the order of the micro-batches, the same bytes for any number of processes.
    fast: each process adds its own, and one all-reduce a step adds those: less is sent, but the last bits depend on
    `processes`, which is then part of the cache key."""

    @property
    def reduced_over(self) -> int:
        """Number of processes that the bits of a gradient depend on; 1 where they depend on none."""
        return self.processes if self.reduce == "fast" else 1

    @property
    def processes_per_machine(self) -> int:
        """Number of processes that share the cores of a machine."""
        return self.processes // self.machines


ONE_PROCESS = Launch()


def uneven_split_reason(processes: int, accumulation: int) -> str | None:
    """Why so many processes cannot share a step's micro-batches evenly; None where they can."""
    if accumulation % processes == 0:
        return None
    return (f"`train.accumulation: {accumulation}` cannot be split evenly over {processes} processes: each computes an "
            "equal share of a step's micro-batches")


def even_split_fix(processes: int, accumulation: int) -> str:
    """Fix for what `uneven_split_reason` found: the next larger accumulation that can be split."""
    next_multiple = math.ceil(accumulation / processes) * processes
    return (f"write `train.accumulation: {next_multiple}`; `batch_size` is what one process computes at once")


def check_launch(launch: Launch, accumulation: int, device: str) -> Iterator[KeyProblem]:
    """Problems of the number of processes and machines. device: `device` of the recipe."""
    reason = uneven_split_reason(launch.processes, accumulation)
    if reason:
        yield KeyProblem("launch.processes", f"found {launch.processes}, but {reason}",
                         even_split_fix(launch.processes, accumulation))
    if launch.processes % launch.machines:
        yield KeyProblem("launch.machines",
                         f"found {launch.machines}, but {launch.processes} processes cannot be spread evenly "
                         f"over {launch.machines} machines",
                         "write in `processes` the number for all machines together, a multiple of `machines`")
    if launch.reduce == "fast" and launch.processes == 1:
        yield KeyProblem("launch.reduce", "found fast, but one process has nothing to exchange",
                         "write `launch.processes`, also where a launcher starts them, or remove `reduce`")
    if launch.processes > 1 and device == "mps":
        yield KeyProblem("launch.processes",
                         f"found {launch.processes}, allowed with `device: mps`: 1, since a Mac has one GPU",
                         "remove `launch`")
