"""Run DreamBooth personalisation from a declarative YAML recipe.

The functions of this package are the commands of the same names, explained in `.github/docs/python.md`. Nothing is
imported before it is used, and torch only when a stage computes.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbrun import errors as errors
    from dbrun import events as events
    from dbrun.api.files import convert as convert
    from dbrun.api.files import merge as merge
    from dbrun.api.reading import plan as plan
    from dbrun.api.reading import runs as runs
    from dbrun.api.reading import validate as validate
    from dbrun.api.results import Run as Run
    from dbrun.api.results import Sample as Sample
    from dbrun.api.results import Validation as Validation
    from dbrun.api.results import WrittenAdapter as WrittenAdapter
    from dbrun.api.run import release as release
    from dbrun.api.run import run as run
    from dbrun.api.scoring import evaluate as evaluate
    from dbrun.api.use import sample as sample
    from dbrun.api.use import show as show
    from dbrun.engines.base import Job as Job
    from dbrun.engines.base import JobReport as JobReport
    from dbrun.engines.job_graph import JobGraph as JobGraph
    from dbrun.engines.many import jobs as jobs
    from dbrun.engines.many import submit as submit
    from dbrun.errors import Cancelled as Cancelled
    from dbrun.errors import DbrunError as DbrunError
    from dbrun.errors import RecipeError as RecipeError
    from dbrun.errors import StageFailed as StageFailed
    from dbrun.errors import UsageError as UsageError
    from dbrun.events import Event as Event
    from dbrun.plan.planner import Plan as Plan
    from dbrun.recipe.schema.model import Recipe as Recipe

__version__ = "0.2.0"

_HOMES = {
    "dbrun.api.files": ("convert", "merge"),
    "dbrun.api.reading": ("plan", "runs", "validate"),
    "dbrun.api.results": ("Run", "Sample", "Validation", "WrittenAdapter"),
    "dbrun.api.run": ("release", "run"),
    "dbrun.api.scoring": ("evaluate",),
    "dbrun.api.use": ("sample", "show"),
    "dbrun.engines.base": ("Job", "JobReport"),
    "dbrun.engines.job_graph": ("JobGraph",),
    "dbrun.engines.many": ("jobs", "submit"),
    "dbrun.errors": ("Cancelled", "DbrunError", "RecipeError", "StageFailed", "UsageError"),
    "dbrun.events": ("Event",),
    "dbrun.plan.planner": ("Plan",),
    "dbrun.recipe.schema.model": ("Recipe",),
}
"""Module → what it defines of the public API."""
_MODULES = ("errors", "events")
"""Modules that are public as they are."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, *_MODULES, "__version__"]


class _LazyApi(ModuleType):
    """The package as a module whose public names are imported when they are first used."""

    def __getattr__(self, name: str) -> object:
        if name in _MODULES:
            return import_module(f"dbrun.{name}")
        if name not in _HOME_OF:
            raise AttributeError(f"module 'dbrun' has no attribute {name!r}")
        value = getattr(import_module(_HOME_OF[name]), name)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # Python sets a package's modules as its attributes. Of `dbrun.run` and `dbrun.plan` it must not: these names
        # are functions here, and imports find the packages without the attributes.
        if not (isinstance(value, ModuleType) and name in _HOME_OF):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _LazyApi
