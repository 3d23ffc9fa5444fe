"""The stage `adapt`: attaches the adapters to the base and writes their initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter, write_adapters
from dbrun.adapters.adapter_layers import matched_layers
from dbrun.adapters.attach import attach, read_weights
from dbrun.adapters.base import Adapter, Learnable
from dbrun.errors import RecipeError
from dbrun.models.base import Family
from dbrun.options.packages import OptionalPackage
from dbrun.recipe.schema.adapt import Adapt as AdaptConfig
from dbrun.recipe.schema.model import Recipe
from dbrun.seeds import derive_seed
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import load_base, quantisation_packages
from dbrun.stages.support.cost import adapter_labels
from dbrun.stages.support.init_adapter import attach_init_adapter
from dbrun.stages.support.memory import CountedMemory
from dbrun.stages.support.memory_advice import adapter_advice
from dbrun.workload import Workload

if TYPE_CHECKING:
    from torch import nn

    from dbrun.training.dry_run import DryRun


@dataclass(frozen=True)
class AdaptParams:
    """The params of the stage `adapt`.

    adapt: the adapter of each component; seed: of the initial weights; inits: component -> identity of the adapter that
    it starts from (see `Sources.inits`), only where `adapt.<component>.init` names one; quantise: number format of the
    denoiser's linear layers, only where initial weights are made from its weights.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"inits": {}, "quantise": None}
    WORDS: ClassVar[Mapping[str, str]] = {"adapt": "adapt", "seed": "seed", "inits": "adapt.{}.init",
                                          "quantise": "base.quantise"}

    adapt: AdaptConfig
    seed: int
    inits: Mapping[str, str] = field(default_factory=dict)
    quantise: str | None = None


class Adapt(Stage[AdaptParams]):
    """Attaches the adapters to the base; the artifact holds the matched modules and the initial weights."""

    NAME: ClassVar[str] = "adapt"
    needs: ClassVar[tuple[str, ...]] = ("load",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "peft", "diffusers", "transformers", "safetensors")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.formats.diffusers", "dbrun.formats.peft", "dbrun.formats.peft_import",
        "dbrun.models", "dbrun.seeds",
        "dbrun.stages.support.base_loading", "dbrun.stages.support.init_adapter", "dbrun.stages.support.inputs")
    device_dependent: ClassVar[bool] = False

    def params(self, recipe: Recipe, sources: Sources) -> AdaptParams:
        """The adapters, the seed, and the identities of the adapters to start from."""
        # without the fields that only training reads: a new learning rate keeps the initial weights
        plain = {name: one.without_excluded() for name, one in recipe.adapt.components.items()}
        denoiser = recipe.adapt.adapters.get("denoiser")
        quantise = None
        # DoRA starts from the norms of the weights below it, and must find the same ones in training
        if denoiser is not None and denoiser.starts_from_base_weights:
            quantise = recipe.base.quantise
        return AdaptParams(recipe.adapt.model_copy(update=plain), recipe.seed, sources.inits, quantise)

    def required_packages(self, params: AdaptParams) -> tuple[OptionalPackage, ...]:
        """The package of the quantisation, if there is one."""
        return quantisation_packages(params.quantise)

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The size of the adapters, which is all that memory and disk grow with for one base."""
        size = cost.adapter_size(sources.base, recipe.adapt)
        return Workload(memory=(size,), disk={".safetensors": size}, like=adapter_labels(recipe.adapt))

    def count_memory(self, recipe: Recipe, sources: Sources, dry_run: DryRun) -> CountedMemory:
        """The adapters with the copies that are written, and in 32 bits each component whose weights they start from.
        """
        base = dry_run.open("fp32", recipe.adapt.components)
        read: list[str] = []
        for name, choice in recipe.adapt.components.items():
            if choice.starts_from_base_weights:
                # new words stand in a text encoder
                own = dry_run.family.components.get(name)
                read += [own] if own else dry_run.family.text_encoders
        # the adapter itself, its state as it is read, and the bytes of the file
        return CountedMemory(dry_run.weight_bytes("fp32", *dict.fromkeys(read)), 0, 3 * base.trained_bytes)

    def memory_advice(self, recipe: Recipe, device: str) -> tuple[str, ...]:
        """An adapter that starts from nothing but shapes, or a smaller one."""
        advice: list[str] = []
        for name, choice in recipe.adapt.adapters.items():
            if choice.starts_from_base_weights and choice.uses_peft:
                changes = [f"`adapt.{name}.{field}: {value}`" for field, value in choice.plain_start.items()]
                change = " and ".join(changes) or f"`adapt.{name}: {{type: lora}}`"
                advice.append(f"set {change}, which starts without the base's weights")
        return (*advice, *adapter_advice(recipe))

    def max_disk_bytes(self, ctx: StageContext[AdaptParams]) -> int:
        """The adapters' files, and the fixed overhead."""
        return cost.adapter_bytes(ctx, ctx.params.adapt) + cost.OVERHEAD_BYTES

    def run(self, ctx: StageContext[AdaptParams]) -> None:
        """Write the adapters with their initial weights."""
        import torch

        # on the CPU whatever the device, so that the initial weights are the same everywhere
        model = load_base(ctx, "fp32", torch.device("cpu"), ctx.params.quantise)
        allowed = (*model.family.components, *model.family.token_components)
        attached: dict[str, ComponentAdapter] = {}
        for name, choice in ctx.params.adapt.components.items():
            ctx.check_interrupt()
            if name not in allowed:
                raise RecipeError(f"`base.type: {model.family.NAME}` has no component `{name}` to adapt; it has "
                                  f"{', '.join(allowed)}", fix=f"leave out `adapt.{name}`")
            # names and shapes are enough for most types: a large base is not read at all
            module = model.empty_module(name) if isinstance(choice, Adapter) else model.module(name)
            if isinstance(choice, Adapter):
                names = _matching_layers(model.family, module, name, choice)
                if choice.starts_from_base_weights:
                    module = model.module(name)
                attached[name] = self._attach(ctx, module, names, name, choice)
            else:
                attached[name] = _attach_without_layers(module, name, choice)
            layers = f"{len(attached[name].modules)} layers, " if attached[name].modules else ""
            ctx.note(f"{name}: {layers}{_count_trainable(module):,} trainable numbers")
        write_adapters(ctx.out, attached)

    def _attach(self, ctx: StageContext[AdaptParams], module: nn.Module, names: tuple[str, ...], component: str,
                adapter: Adapter) -> ComponentAdapter:
        """Attach an adapter to these layers, with drawn or given initial weights.

        module: of the component, with weights or on the meta device.
        """
        if _is_empty(module):
            # peft puts an adapter on its layer's device; memory that nobody writes to takes no room
            for name in names:
                module.get_submodule(name).to_empty(device="cpu", recurse=False)
        identity = ctx.params.inits.get(component)
        if identity:
            attach_init_adapter(ctx, identity, component, adapter, module, names)
        else:
            attach(module, adapter, names, seed=derive_seed(ctx.params.seed, "adapter", component))
        return ComponentAdapter(adapter.resolved_for(names), names, read_weights(module))


def _matching_layers(family: Family, module: nn.Module, component: str, adapter: Adapter) -> tuple[str, ...]:
    """Names of the layers that the adapter's targets match. module: with whole weights, on the meta device.

    Raises RecipeError where it cannot be attached to them.
    """
    names = matched_layers(family, module, component, adapter)
    _check_shapes(component, adapter, {name: module.get_submodule(name) for name in names})
    return names


def _attach_without_layers(module: nn.Module, component: str, choice: Learnable) -> ComponentAdapter:
    """Attach what has no layers, such as the vectors of new words."""
    try:
        # the seed is not read: nothing is drawn
        attach(module, choice, (), seed=0)
    except RecipeError as error:
        raise RecipeError(f"adapt.{component}: {error.message}", fix=error.fix) from error
    return ComponentAdapter(choice.resolved_for(()), (), read_weights(module))


def _is_empty(module: nn.Module) -> bool:
    """Whether a module has names and shapes only (see `Model.empty_module`)."""
    return any(parameter.is_meta for parameter in module.parameters())


def _count_trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _check_shapes(component: str, adapter: Adapter, layers: Mapping[str, nn.Module]) -> None:
    """Raise RecipeError where the adapter cannot be attached to one of these layers. layers: by module name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in layers.items():
        weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is not None:
            shapes[name] = tuple(weight.shape)
    if not shapes:
        return
    problem = adapter.layer_problem(shapes)
    if problem is not None:
        field, message, fix = problem
        raise RecipeError(f"adapt.{component}.{field}: {message}", fix=fix)
