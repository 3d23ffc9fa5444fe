"""How does the stage `adapt` start a component from an existing adapter?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbrun.adapters.attach import attach, match
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.models.base import Family
from dbrun.stages.base import Job
from dbrun.stages.support.arithmetic import base_in_memory
from dbrun.stages.support.inputs import contents

if TYPE_CHECKING:
    from torch import nn

    from dbrun.formats.peft_import import Given


def start(job: Job[Any], identity: str, component: str, adapter: Adapter, module: nn.Module,
          modules: tuple[str, ...]) -> None:
    """Attach the adapter to these layers of module with the weights of the one of this identity.

    identity: as in `Sources.inits`. Raises RecipeError where the two adapters do not agree.
    """
    from dbrun.formats.peft_import import start_from

    with _said_of(component):
        family, given = _given(job, identity, component)
        if given.modules != modules:
            hits = {preset: match(module, patterns, adapter.layers)
                    for preset, patterns in family.presets[component].items()}
            raise _other_targets(given, modules, hits)
        attach(module, adapter, modules, seed=None)
        start_from(given, module, adapter, modules)
    job.note(f"{component}: starts from the adapter {identity.rpartition('+')[2].rpartition(':')[2][:12]}")


@contextmanager
def _said_of(component: str) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"adapt.{component}.init: {error.message}", fix=error.fix) from error


def _given(job: Job[Any], identity: str, component: str) -> tuple[Family, Given]:
    """The adapter as its own library reads it, on a base of its own."""
    import torch

    from dbrun.formats.base import formats

    name, _, digests = identity.partition(":")
    form = formats()[name]
    job.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=job.work) as folder:
        for digest, place in zip(digests.split("+"), form.laid_out(component), strict=True):
            target = Path(folder) / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents(job.files, digest))
        family, loaded = base_in_memory(job, "fp32", torch.device("cpu"))
        return family, form.given(Path(folder), family, loaded, component)


def _other_targets(given: Given, modules: tuple[str, ...], hits: Mapping[str, tuple[str, ...]]) -> RecipeError:
    """What to say where the given adapter is on other layers. hits: the layers of each preset."""
    more, less = sorted(set(given.modules) - set(modules)), sorted(set(modules) - set(given.modules))
    only = "; ".join(f"{len(names)} of them only {where}, such as `{names[0]}`"
                     for names, where in ((more, "in the file"), (less, "in the recipe")) if names)
    right = [preset for preset, hit in hits.items() if hit == given.modules]
    return RecipeError(f"it is on {len(given.modules)} layers, and `targets` hits {len(modules)}: {only}",
                       fix=f"write `targets: {right[0]}`" if right else "write patterns in `targets` that hit the "
                       "layers of the given adapter")
