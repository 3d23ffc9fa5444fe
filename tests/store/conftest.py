"""The fixtures of the stub stages, shared by plan, resolve, run, workers and store."""

from memory_folders import fresh, home, quick

__all__ = ["fresh", "home", "quick"]
