"""Import of an adapter through a library that uses peft, and starting a training from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.adapters.attach import ADAPTER_NAME, read_weights, write_weights
from dbrun.adapters.base import Adapter
from dbrun.adapters.import_adapter import ImportedAdapter
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.formats.reader_errors import FIX, reader_errors
from dbrun.models.base import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

IGNORED_SETTINGS = frozenset({
    "alpha", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
    "init_lora_weights", "init_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "module_dropout", "modules_to_save", "peft_version", "r", "rank_dropout", "rank_pattern", "revision",
    "runtime_config", "target_modules", "target_parameters", "task_type", "use_rslora"})
"""peft's settings that may differ: they concern training only, or the weights and `scales` show them."""


def import_through_peft(form: Format, folder: Path, begins: str, model: Model,
                        component: str) -> ImportedAdapter:
    """Load the adapter of one component onto a fresh base through the format's library, and read it back.

    begins: prefix of the component's names in the format's last file. The model is unusable afterwards.
    Raises RecipeError if the library fails, or if it ignores or changes a weight of the file.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    module = model.module(component)
    with reader_errors(form.NAME, component):
        form.read(folder, model, (component,))
    configs = getattr(module, "peft_config", {})
    if len(configs) != 1:
        raise RecipeError(f"{form.NAME} puts nothing of the adapter onto the {component}", fix=FIX)
    slot, config = next(iter(configs.items()))
    state = get_peft_model_state_dict(module, adapter_name=slot, save_embedding_layers=False)
    weights = {name: tensor.detach().float().cpu() for name, tensor in state.items()}
    tensors = load_file(folder / form.relative_paths(component)[-1])
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(begins)}
    _check_all_loaded(own, weights)
    return ImportedAdapter(config.to_dict(), weights, dict(_scales(module, slot)))


def initialize_from(given: ImportedAdapter, module: nn.Module, adapter: Adapter, modules: tuple[str, ...]) -> None:
    """Set the weights of module's adapter, so that it predicts what the given one does.

    If their scales differ, the ratio goes into the weights. Raises RecipeError if type, settings or shapes differ.
    """
    own = adapter.peft_config(modules).to_dict()
    # Only settings that both know: another peft has others, and the shapes below are the stronger check.
    comparable = (own.keys() & given.config.keys()) - IGNORED_SETTINGS
    other = sorted(key for key in comparable if given.config[key] != own[key])
    if other:
        shown = ", ".join(f"{key}: {given.config.get(key)}, not {own[key]}" for key in other[:3])
        raise RecipeError(f"it is another kind of adapter than the recipe's ({shown})",
                          fix="give the recipe's adapter the same type and settings")
    expected = {name: tuple(tensor.shape) for name, tensor in read_weights(module).items()}
    found = {name: tuple(tensor.shape) for name, tensor in given.state.items()}
    if found != expected:
        name = min(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise RecipeError(f"it has rank {given.config.get('r')}: {name} is {found.get(name)} in it, and "
                          f"{expected.get(name)} as the recipe has it", fix=f"write `rank: {given.config.get('r')}`")
    factors = {name: given.scales[name] / scale for name, scale in _scales(module, ADAPTER_NAME)}
    write_weights(module, dict(_scaled_weights(given, factors, adapter)))


def _scaled_weights(given: ImportedAdapter, factors: Mapping[str, float],
                    adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, weight) with each layer's factor multiplied into the weights that the update is linear in."""
    for name, tensor in given.state.items():
        factor = next(f for layer, f in factors.items() if name.startswith(f"{layer}."))
        if factor != 1.0 and not adapter.scale_folds_into:
            raise RecipeError(f"its scale is {factor:g} times that of the recipe's adapter",
                              fix="give the recipe's adapter the same `alpha`")
        if set(name.split(".")) & set(adapter.scale_folds_into):
            tensor = tensor * factor
        yield name, tensor


def _scales(module: nn.Module, slot: str) -> Iterator[tuple[str, float]]:
    """Yield (layer, factor that peft multiplies its update by) for the adapter `slot`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            # OFT has no scale.
            yield name, float(getattr(layer, "scaling", {}).get(slot, 1.0))


def _check_all_loaded(written: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Raise RecipeError unless the library holds each tensor of the file and no other; names are not compared."""
    import torch

    # By value: each library renames the tensors in its own way. Each match is used once.
    remaining = list(loaded.values())
    for name, tensor in written.items():
        same = [i for i, t in enumerate(remaining) if t.shape == tensor.shape and torch.equal(t, tensor.float())]
        if not same:
            raise RecipeError(f"peft ignores or changes its weight {name}",
                              fix="name an adapter that was trained on this base")
        remaining.pop(same[0])
    if remaining:
        # The library left these at their random initial values.
        raise RecipeError(f"its file lacks {len(remaining)} weights of the layers that it adapts",
                          fix="name a file that was written whole")
