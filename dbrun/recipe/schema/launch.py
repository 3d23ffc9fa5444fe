"""What a recipe may say of where it runs: in how many processes, on how many machines."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from dbrun.config_types import Int, Part
from dbrun.errors import KeyProblem


class Launch(Part):
    """In how many processes the work is done. It changes no result, and so nothing runs again for it.

    The micro-batches of a step are dealt to the processes, and their gradients added in the order of the
    micro-batches, so that every number of processes gives the same bytes. What is a batch of 4 on each of 2 GPUs
    elsewhere is `batch_size: 4, accumulation: 2` here, with `processes: 2`. Class images and pictures are dealt
    singly. `torchrun` or `accelerate launch` may start the processes instead; they are then as many as it starts.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {"processes": 1, "machines": 1}

    processes: Annotated[Int, Field(ge=1, le=4096)] = 1
    """All processes together, each with a GPU of its own, or with `threads` of the CPU. It must divide
    `train.accumulation`: each takes an equal share of a step's micro-batches."""
    machines: Annotated[Int, Field(ge=1, le=4096)] = 1
    """How many machines they are spread over. For more than one, start `torchrun` on each, with one store that all
    of them see (DBRUN_STORE)."""


def uneven_split_reason(processes: int, accumulation: int) -> str | None:
    """What is wrong with so many processes for so many micro-batches, None if nothing is."""
    if accumulation % processes == 0:
        return None
    return (f"`train.accumulation: {accumulation}` cannot be dealt evenly to {processes} processes: each computes an "
            "equal share of a step's micro-batches")


def even_split_fix(processes: int, accumulation: int) -> str:
    """The way out of what `uneven_split_reason` found."""
    return (f"write `train.accumulation: {-(-accumulation // processes) * processes}`, with `batch_size` what one "
            "process computes at once")


def check_launch(launch: Launch, accumulation: int, device: str) -> Iterator[KeyProblem]:
    """(dotted key, message, fix) of all that does not fit together."""
    if why := uneven_split_reason(launch.processes, accumulation):
        yield KeyProblem("launch.processes", f"found {launch.processes}, but {why}",
                         even_split_fix(launch.processes, accumulation))
    if launch.processes % launch.machines:
        yield KeyProblem("launch.machines",
                         f"found {launch.machines}, but {launch.processes} processes cannot be spread evenly "
                         f"over {launch.machines} machines",
                         "write `processes` for all machines together, a multiple of "
                         "`machines`")
    if launch.processes > 1 and device == "mps":
        yield KeyProblem("launch.processes",
                         f"found {launch.processes}, allowed with `device: mps`: 1, since a Mac has one GPU",
                         "take `launch` away")
