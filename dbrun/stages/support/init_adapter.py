"""How does the stage `adapt` start a component from an existing adapter?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbrun.adapters.attach import attach, match_layers
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.models.base import Family
from dbrun.stages.base import StageContext
from dbrun.stages.support.base_loading import load_base
from dbrun.stages.support.inputs import read_verified

if TYPE_CHECKING:
    from torch import nn

    from dbrun.adapters.import_adapter import ImportedAdapter


def attach_init_adapter(ctx: StageContext[Any], identity: str, component: str, adapter: Adapter, module: nn.Module,
                        modules: tuple[str, ...]) -> None:
    """Attach the adapter to these layers of module with the weights of the one of this identity.

    identity: as in `Sources.inits`. Raises RecipeError where the two adapters do not agree.
    """
    from dbrun.formats.peft_import import initialize_from

    with _component_errors(component):
        family, given = _read_init_adapter(ctx, identity, component)
        if given.modules != modules:
            hits = {preset: match_layers(module, patterns, adapter.layer_classes)
                    for preset, patterns in family.target_presets[component].items()}
            raise _target_mismatch(given, modules, hits)
        attach(module, adapter, modules, seed=None)
        initialize_from(given, module, adapter, modules)
    ctx.note(f"{component}: starts from the adapter {identity.rpartition('+')[2].rpartition(':')[2][:12]}")


@contextmanager
def _component_errors(component: str) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"adapt.{component}.init: {error.message}", fix=error.fix) from error


def _read_init_adapter(ctx: StageContext[Any], identity: str, component: str) -> tuple[Family, ImportedAdapter]:
    """The adapter as its own library reads it, on a base of its own."""
    import torch

    from dbrun.formats.base import formats

    name, _, digests = identity.partition(":")
    form = formats()[name]
    ctx.work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=ctx.work) as folder:
        for digest, place in zip(digests.split("+"), form.relative_paths(component), strict=True):
            target = Path(folder) / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_verified(ctx.files, digest))
        model = load_base(ctx, "fp32", torch.device("cpu"))
        return model.family, form.import_adapter(Path(folder), model, component)


def _target_mismatch(given: ImportedAdapter, modules: tuple[str, ...],
                     hits: Mapping[str, tuple[str, ...]]) -> RecipeError:
    """What to say where the given adapter is on other layers. hits: the layers of each preset."""
    more, less = sorted(set(given.modules) - set(modules)), sorted(set(modules) - set(given.modules))
    only = "; ".join(f"{len(names)} of them only {where}, such as `{names[0]}`"
                     for names, where in ((more, "in the file"), (less, "in the recipe")) if names)
    right = [preset for preset, hit in hits.items() if hit == given.modules]
    return RecipeError(f"it is on {len(given.modules)} layers, and `targets` hits {len(modules)}: {only}",
                       fix=f"write `targets: {right[0]}`" if right else "write patterns in `targets` that hit the "
                       "layers of the given adapter")
