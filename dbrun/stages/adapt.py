"""Which modules does the adapter sit on, and what are its first weights? The stage `adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter, write_adapters
from dbrun.adapters.attach import attach, match_layers, read_weights
from dbrun.adapters.base import TARGET_PRESETS, Adapter, Learnable
from dbrun.errors import RecipeError
from dbrun.models.base import Family, Model
from dbrun.recipe.schema.adapt import Adapt as AdaptConfig
from dbrun.recipe.schema.model import Recipe
from dbrun.seeds import derive_seed
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base
from dbrun.stages.support.cost import adapter_labels
from dbrun.stages.support.init_adapter import attach_init_adapter
from dbrun.workload import Workload

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class AdaptParams:
    """adapt: the adapter of each component; seed: where the initial weights come from.

    inits: component -> what the adapter that it starts from is, where it starts from one (see `Sources.inits`).
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"inits": {}}
    WORDS: ClassVar[Mapping[str, str]] = {"adapt": "adapt", "seed": "seed", "inits": "adapt.{}.init"}

    adapt: AdaptConfig
    seed: int
    inits: Mapping[str, str] = field(default_factory=dict)


class Adapt(Stage[AdaptParams]):
    """Attach the adapters to the base; matched modules and seeded initial weights are the artifact."""

    NAME: ClassVar[str] = "adapt"
    needs: ClassVar[tuple[str, ...]] = ("load",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "peft", "diffusers", "transformers", "safetensors")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.formats.diffusers", "dbrun.formats.peft", "dbrun.formats.peft_import",
        "dbrun.models", "dbrun.seeds", "dbrun.stages.support.base_loading",
        "dbrun.stages.support.init_adapter", "dbrun.stages.support.inputs")
    device_dependent: ClassVar[bool] = False

    def params(self, recipe: Recipe, sources: Sources) -> AdaptParams:
        """The adapters, without what only training reads, the seed, and the adapters to start from as contents."""
        plain = {name: one.without_excluded() for name, one in recipe.adapt.components.items()}
        return AdaptParams(recipe.adapt.model_copy(update=plain), recipe.seed, sources.inits)

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """Most of it is the base; only the adapters have a size."""
        size = cost.adapter_size(sources.base, recipe.adapt)
        return Workload(memory=(size,), disk={".safetensors": size}, like=adapter_labels(recipe.adapt))

    def max_disk_bytes(self, ctx: StageContext[AdaptParams]) -> int:
        """The adapters."""
        return cost.adapter_bytes(ctx, ctx.params.adapt) + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[AdaptParams]) -> None:
        """Draw the initial weights on the CPU, whatever the device, so that they are the same everywhere."""
        import torch

        model = load_base(ctx, "fp32", torch.device("cpu"))
        attached = {}
        for name, one in ctx.params.adapt.components.items():
            ctx.check_interrupt()
            if name not in (can := (*model.family.components, *model.family.token_components)):
                raise RecipeError(f"`base.type: {model.family.NAME}` has no component `{name}` to adapt; it has "
                                  f"{', '.join(can)}", fix=f"leave out `adapt.{name}`")
            attached[name] = (self._attach(ctx, model, name, one) if isinstance(one, Adapter)
                              else _attach_without_layers(model.module(name), name, one))
            layers = f"{len(attached[name].modules)} layers, " if attached[name].modules else ""
            ctx.note(f"{name}: {layers}{_count_trainable(model.module(name)):,} trainable numbers")
        write_adapters(ctx.out, attached)

    def _attach(self, ctx: StageContext[AdaptParams], model: Model, component: str,
                adapter: Adapter) -> ComponentAdapter:
        module = model.module(component)
        modules: set[str] = set()
        for patterns in target_patterns(model.family, component, adapter):
            modules.update(match_layers(module, patterns, adapter.layer_classes))
        found = tuple(sorted(modules))
        _check_shapes(component, adapter, {name: module.get_submodule(name) for name in found})
        if identity := ctx.params.inits.get(component):
            attach_init_adapter(ctx, identity, component, adapter, module, found)
        else:
            attach(module, adapter, found, seed=derive_seed(ctx.params.seed, "adapter", component))
        return ComponentAdapter(adapter.resolved_for(found), found, read_weights(module))


def target_patterns(family: Family, component: str, adapter: Adapter) -> tuple[tuple[str, ...], ...]:
    """Groups of patterns that must each hit something: a preset as a whole, the user's own singly."""
    targets = adapter.targets
    if not isinstance(targets, str):
        return tuple((pattern,) for pattern in targets)
    presets = family.target_presets[component]
    if targets not in presets:
        allowed = ", ".join(p for p in TARGET_PRESETS if p in presets)
        raise RecipeError(f"`{targets}` is no preset of {component}; it has {allowed}",
                          fix=f"set `adapt.{component}.targets` to one of them, or to a list of patterns")
    return (presets[targets],)


def _attach_without_layers(module: nn.Module, component: str, one: Learnable) -> ComponentAdapter:
    """What stands on no layer, as it begins."""
    try:
        attach(module, one, (), seed=0)
    except RecipeError as error:
        raise RecipeError(f"adapt.{component}: {error.message}", fix=error.fix) from error
    return ComponentAdapter(one.resolved_for(()), (), read_weights(module))


def _count_trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _check_shapes(component: str, adapter: Adapter, layers: Mapping[str, nn.Module]) -> None:
    """Raise RecipeError where the adapter cannot go on one of the layers that its targets hit."""
    shapes = {name: tuple(weight.shape) for name, layer in layers.items()
              if (weight := dict(layer.named_parameters(recurse=False)).get("weight")) is not None}
    if shapes and (found := adapter.layer_problem(shapes)) is not None:
        field, message, fix = found
        raise RecipeError(f"adapt.{component}.{field}: {message}", fix=fix)
