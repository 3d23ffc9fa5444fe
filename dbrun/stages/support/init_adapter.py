"""Initial weights from an existing adapter, for the stage `adapt`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbrun.adapters.attach import attach, match_layers
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.finite_weights import check_finite
from dbrun.models.base import Family
from dbrun.stages.base import StageContext
from dbrun.stages.support.base_loading import load_base
from dbrun.stages.support.inputs import read_verified

if TYPE_CHECKING:
    from torch import nn

    from dbrun.adapters.import_adapter import ImportedAdapter


def attach_init_adapter(ctx: StageContext[Any], identity: str, component: str, adapter: Adapter, module: nn.Module,
                        modules: tuple[str, ...]) -> None:
    """Attach an adapter to layers of a module, with the weights of an existing adapter.

    identity: of the existing adapter, as in `Sources.inits`; modules: names of the layers. Raises RecipeError where the
    existing adapter is on other layers or of another kind.
    """
    from dbrun.formats.peft_import import initialize_from

    with _component_errors(component):
        family, init = _read_init_adapter(ctx, identity, component)
        if init.modules != modules:
            layers_by_preset: dict[str, tuple[str, ...]] = {}
            for preset, patterns in family.target_presets[component].items():
                layers_by_preset[preset] = match_layers(module, patterns, adapter.layer_classes)
            raise _target_mismatch(init, modules, layers_by_preset)
        # no seed: every weight that attaching would draw is replaced at once
        attach(module, adapter, modules, seed=None)
        initialize_from(init, module, adapter, modules)
    # the digest of the weights comes last in an identity
    weights_digest = identity.rpartition("+")[2].rpartition(":")[2]
    ctx.note(f"{component}: starts from the adapter {weights_digest[:12]}")


@contextmanager
def _component_errors(component: str) -> Iterator[None]:
    """Context manager: put the recipe key `adapt.<component>.init` before the message of a RecipeError."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"adapt.{component}.init: {error.message}", fix=error.fix) from error


def _read_init_adapter(ctx: StageContext[Any], identity: str, component: str) -> tuple[Family, ImportedAdapter]:
    """The family of the base, and the existing adapter as its own library reads it on a base of its own."""
    import torch

    from dbrun.formats.base import formats

    name, _, digests = identity.partition(":")
    form = formats()[name]
    ctx.work.mkdir(parents=True, exist_ok=True)
    # the library reads files by their usual names, while the run knows them by digest
    with TemporaryDirectory(dir=ctx.work) as folder:
        for digest, place in zip(digests.split("+"), form.relative_paths(component), strict=True):
            target = Path(folder) / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(read_verified(ctx.files, digest))
            if target.suffix == ".safetensors":
                check_finite(target)
        model = load_base(ctx, "fp32", torch.device("cpu"))
        return model.family, form.import_adapter(Path(folder), model, component)


def _target_mismatch(init: ImportedAdapter, modules: tuple[str, ...],
                     layers_by_preset: Mapping[str, tuple[str, ...]]) -> RecipeError:
    """The error for an existing adapter on other layers than `targets` matches; suggests a preset that fits."""
    only_in_file = sorted(set(init.modules) - set(modules))
    only_in_recipe = sorted(set(modules) - set(init.modules))
    differences: list[str] = []
    for names, where in ((only_in_file, "in the file"), (only_in_recipe, "in the recipe")):
        if names:
            differences.append(f"{len(names)} of them only {where}, such as `{names[0]}`")
    fix = "write patterns in `targets` that match the layers of the existing adapter"
    for preset, layers in layers_by_preset.items():
        if layers == init.modules:
            fix = f"write `targets: {preset}`"
            break
    return RecipeError(f"it is on {len(init.modules)} layers, but `targets` matches {len(modules)}: "
                       f"{'; '.join(differences)}", fix=fix)
