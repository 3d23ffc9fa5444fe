"""Which modules does the adapter sit on, and what are its first weights? The stage `adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import Attached, write_artifact
from dbrun.adapters.attach import attach, match, read
from dbrun.adapters.base import PRESETS, Adapter, Learnable
from dbrun.errors import RecipeError
from dbrun.models.base import Family, Loaded
from dbrun.recipe.schema.model import Adapt as Choices
from dbrun.recipe.schema.model import Recipe
from dbrun.seeds import derive
from dbrun.stages.base import Job, Sources, Stage
from dbrun.stages.support import cost
from dbrun.stages.support.amounts import Amounts, learners
from dbrun.stages.support.arithmetic import base_in_memory
from dbrun.stages.support.init_adapter import start

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class AdaptParams:
    """adapt: the adapter of each component; seed: where the initial weights come from.

    inits: component -> what the adapter that it starts from is, where it starts from one (see `Sources.inits`).
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"inits": {}}
    WORDS: ClassVar[Mapping[str, str]] = {"adapt": "adapt", "seed": "seed", "inits": "adapt.{}.init"}

    adapt: Choices
    seed: int
    inits: Mapping[str, str] = field(default_factory=dict)


class Adapt(Stage[AdaptParams]):
    """Attach the adapters to the base; matched modules and seeded initial weights are the artifact."""

    NAME: ClassVar[str] = "adapt"
    needs: ClassVar[tuple[str, ...]] = ("load",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "peft", "diffusers", "transformers", "safetensors")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.formats.diffusers", "dbrun.formats.peft", "dbrun.formats.peft_import",
        "dbrun.models", "dbrun.seeds", "dbrun.stages.support.arithmetic",
        "dbrun.stages.support.init_adapter", "dbrun.stages.support.inputs")
    computes: ClassVar[bool] = False

    def params(self, recipe: Recipe, sources: Sources) -> AdaptParams:
        """The adapters, without what only training reads, the seed, and the adapters to start from as contents."""
        plain = {name: one.itself() for name, one in recipe.adapt.components.items()}
        return AdaptParams(recipe.adapt.model_copy(update=plain), recipe.seed, sources.inits)

    def amounts(self, recipe: Recipe, sources: Sources) -> Amounts:
        """Most of it is the base; only the adapters have a size."""
        size = cost.weights(sources.base, recipe.adapt)
        return Amounts(memory=(size,), disk={".safetensors": size}, like=learners(recipe.adapt))

    def room(self, job: Job[AdaptParams]) -> int:
        """The adapters."""
        return cost.adapters(job, job.params.adapt) + cost.MARGIN

    def run(self, job: Job[AdaptParams]) -> None:
        """Draw the initial weights on the CPU, whatever the device, so that they are the same everywhere."""
        import torch

        family, loaded = base_in_memory(job, "fp32", torch.device("cpu"))
        attached = {}
        for name, one in job.params.adapt.components.items():
            job.poll()
            if name not in (can := (*family.components, *family.words)):
                raise RecipeError(f"`base.type: {family.NAME}` has no component `{name}` to adapt; it has "
                                  f"{', '.join(can)}", fix=f"leave out `adapt.{name}`")
            attached[name] = (self._attach(job, family, loaded, name, one) if isinstance(one, Adapter)
                              else _begun(family.module(loaded, name), name, one))
            layers = f"{len(attached[name].modules)} layers, " if attached[name].modules else ""
            job.note(f"{name}: {layers}{_trainable(family.module(loaded, name)):,} trainable numbers")
        write_artifact(job.out, attached)

    def _attach(self, job: Job[AdaptParams], family: Family, loaded: Loaded, component: str,
                adapter: Adapter) -> Attached:
        module = family.module(loaded, component)
        modules: set[str] = set()
        for patterns in patterns_of(family, component, adapter):
            modules.update(match(module, patterns, adapter.layers))
        found = tuple(sorted(modules))
        _fits(component, adapter, {name: module.get_submodule(name) for name in found})
        if identity := job.params.inits.get(component):
            start(job, identity, component, adapter, module, found)
        else:
            attach(module, adapter, found, seed=derive(job.params.seed, "adapter", component))
        return Attached(adapter.decided(found), found, read(module))


def patterns_of(family: Family, component: str, adapter: Adapter) -> tuple[tuple[str, ...], ...]:
    """Groups of patterns that must each hit something: a preset as a whole, the user's own singly."""
    targets = adapter.targets
    if not isinstance(targets, str):
        return tuple((pattern,) for pattern in targets)
    presets = family.presets[component]
    if targets not in presets:
        allowed = ", ".join(p for p in PRESETS if p in presets)
        raise RecipeError(f"`{targets}` is no preset of {component}; it has {allowed}",
                          fix=f"set `adapt.{component}.targets` to one of them, or to a list of patterns")
    return (presets[targets],)


def _begun(module: nn.Module, component: str, one: Learnable) -> Attached:
    """What stands on no layer, as it begins."""
    try:
        attach(module, one, (), seed=0)
    except RecipeError as error:
        raise RecipeError(f"adapt.{component}: {error.message}", fix=error.fix) from error
    return Attached(one.decided(()), (), read(module))


def _trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _fits(component: str, adapter: Adapter, layers: Mapping[str, nn.Module]) -> None:
    """Raise RecipeError where the adapter cannot go on one of the layers that its targets hit."""
    shapes = {name: tuple(weight.shape) for name, layer in layers.items()
              if (weight := dict(layer.named_parameters(recurse=False)).get("weight")) is not None}
    if shapes and (found := adapter.misfit(shapes)) is not None:
        field, message, fix = found
        raise RecipeError(f"adapt.{component}.{field}: {message}", fix=fix)
