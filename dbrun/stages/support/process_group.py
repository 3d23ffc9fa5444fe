"""The process group of a stage: which of the processes that share its work this one is."""

from __future__ import annotations


class ProcessGroup:
    """A group of one process; subclasses connect several. Each process runs the stage; only rank 0 writes the result.

    rank: of this process, from 0; size: number of processes; local_rank: rank on its machine, the number of its GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._done = 0

    def count_done(self, more: int = 0) -> int:
        """The number of items that all processes together have made. more: items to add to it first."""
        self._done += more
        return self._done

    def check_alive(self) -> None:
        """Raise StageFailed where another process has failed or is gone."""
