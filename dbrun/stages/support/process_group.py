"""Which of the processes that share a stage's work this one is."""

from __future__ import annotations


class ProcessGroup:
    """One process that works alone. Where several do, each runs the stage; only that of rank 0 writes its result.

    rank: which of them this is; size: how many they are; local_rank: which on its machine, and so which GPU it takes.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._done = 0

    def count_done(self, more: int = 0) -> int:
        """How many items all together have made, after adding so many."""
        self._done += more
        return self._done

    def check_alive(self) -> None:
        """Raise StageFailed where another process has failed or is gone."""
