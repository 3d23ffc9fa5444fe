"""What is an adapter that training is to start from, read by the library that its file is of?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.adapters.attach import ADAPTER_NAME, read_weights, write_weights
from dbrun.adapters.base import Adapter
from dbrun.adapters.import_adapter import ImportedAdapter
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.models.base import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

IGNORED_SETTINGS = frozenset({
    "alpha", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
    "init_lora_weights", "init_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "module_dropout", "modules_to_save", "peft_version", "r", "rank_dropout", "rank_pattern", "revision",
    "runtime_config", "target_modules", "target_parameters", "task_type", "use_rslora"})
"""peft's settings that may differ: they are how an adapter was trained, or the weights themselves and `scales` tell."""


def import_through_peft(form: Format, folder: Path, begins: str, model: Model,
                        component: str) -> ImportedAdapter:
    """The adapter of one component, put onto a fresh base by a library that uses peft; the base is spent afterwards.

    begins: how the component's names begin in the format's last file.
    Raises RecipeError where the library cannot put it there, or leaves out or changes a weight of the file.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    module = model.module(component)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form.read(folder, model, (component,))
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, OSError) as error:
        words = " ".join(str(error).split())[:300]
        raise RecipeError(f"{form.NAME} cannot put the adapter onto the {component}: {words}",
                          fix="name an adapter that was trained on this base") from error
    configs = getattr(module, "peft_config", {})
    if len(configs) != 1:
        raise RecipeError(f"{form.NAME} puts nothing of the adapter onto the {component}",
                          fix="name an adapter that was trained on this base")
    slot, config = next(iter(configs.items()))
    state = get_peft_model_state_dict(module, adapter_name=slot, save_embedding_layers=False)
    given = ImportedAdapter(config.to_dict(), {name: t.detach().float().cpu() for name, t in state.items()},
                            dict(_scales(module, slot)))
    file = folder / form.relative_paths(component)[-1]
    _check_all_loaded({n: t for n, t in load_file(file).items() if n.startswith(begins)}, given.state)
    return given


def initialize_from(given: ImportedAdapter, module: nn.Module, adapter: Adapter, modules: tuple[str, ...]) -> None:
    """Set the weights of an adapter that stands on module, so that it predicts what the given one does.

    Where their scales differ, what the given one has more goes into its weights. Raises RecipeError where they are
    not of one kind and size.
    """
    own = adapter.peft_config(modules).to_dict()
    if other := sorted(key for key in own.keys() & given.config
                       if key not in IGNORED_SETTINGS and given.config[key] != own[key]):
        shown = ", ".join(f"{key}: {given.config.get(key)}, not {own[key]}" for key in other[:3])
        raise RecipeError(f"it is another kind of adapter than the recipe's ({shown})",
                          fix="give the recipe's adapter the same type and settings")
    wanted = {name: tuple(tensor.shape) for name, tensor in read_weights(module).items()}
    found = {name: tuple(tensor.shape) for name, tensor in given.state.items()}
    if found != wanted:
        name = min(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        raise RecipeError(f"it has rank {given.config.get('r')}: {name} is {found.get(name)} in it, and "
                          f"{wanted.get(name)} as the recipe has it", fix=f"write `rank: {given.config.get('r')}`")
    factors = {name: given.scales[name] / scale for name, scale in _scales(module, ADAPTER_NAME)}
    write_weights(module, dict(_scaled_weights(given, factors, adapter)))


def _scaled_weights(given: ImportedAdapter, factors: Mapping[str, float],
                    adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in given.state.items():
        factor = next(f for layer, f in factors.items() if name.startswith(f"{layer}."))
        if factor != 1.0 and not adapter.scale_folds_into:
            raise RecipeError(f"its scale is {factor:g} times that of the recipe's adapter",
                              fix="give the recipe's adapter the same `alpha`")
        yield name, tensor * factor if set(name.split(".")) & set(adapter.scale_folds_into) else tensor


def _scales(module: nn.Module, slot: str) -> Iterator[tuple[str, float]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield name, float(getattr(layer, "scaling", {}).get(slot, 1.0))


def _check_all_loaded(written: Mapping[str, Tensor], arrived: Mapping[str, Tensor]) -> None:
    """Raise unless the library holds each tensor of the file and no other, by whatever names."""
    import torch

    left = list(arrived.values())
    for name, tensor in written.items():
        same = [i for i, t in enumerate(left) if t.shape == tensor.shape and torch.equal(t, tensor.float())]
        if not same:
            raise RecipeError(f"its library passes over {name}, or changes it",
                              fix="name an adapter that was trained on this base")
        left.pop(same[0])
    if left:
        raise RecipeError(f"{len(left)} weights of the layers that it is on are not in its file",
                          fix="name a file that was written whole")
