"""How does an adapter get onto a module, and its weights in and out again?"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dbrun.adapters.base import Adapter, Learnable
from dbrun.adapters.direct import DirectWeights
from dbrun.errors import RecipeError, StageFailed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ADAPTER_NAME = "default"
"""peft's name for the adapter; it stands in no file."""
FROZEN_PREFIX = "start/"
"""Before the name of a weight of the second adapter, which stays as the first one started; peft's name has no `/`."""
ADAPTER_NAMES = {"": ADAPTER_NAME, FROZEN_PREFIX: FROZEN_PREFIX.rstrip("/")}
"""Before a weight's name -> peft's name for the adapter that it is of."""
DIRECT_ATTRIBUTE = "learning_in_place"
"""The attribute under which a module keeps what learns in it without peft."""


def match_layers(module: nn.Module, patterns: Sequence[str],
                 layers: Sequence[str] = Adapter.layer_classes) -> tuple[str, ...]:
    """Full names of the layers that any pattern hits, sorted; layers: the class names that can be adapted.

    A pattern is a module's name or a dotted end of it; `*` stands for any part of a name. Raises RecipeError
    where nothing is hit.
    """
    kinds = {name: type(m).__mro__ for name, m in module.named_modules() if name}
    fit = [name for name, mro in kinds.items() if any(c.__name__ in layers for c in mro)]
    hit = matching_names(fit, patterns)
    if not hit:
        other = sorted({kinds[name][0].__name__ for name in matching_names(kinds, patterns)})
        raise no_match_error(patterns, fit, layers, other)
    return tuple(hit)


def matching_names(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those of the names that any pattern hits, sorted."""
    wanted = re.compile("|".join(rf"(?:.*\.)?{re.escape(p)}".replace(r"\*", ".*") for p in patterns))
    return sorted(name for name in names if wanted.fullmatch(name))


def no_match_error(patterns: Sequence[str], fit: Sequence[str], layers: Sequence[str],
                   other: Sequence[str] = ()) -> RecipeError:
    """That patterns hit none of the layers that fit, and what they may have meant. other: classes that they do hit."""
    shown = ", ".join(f"`{p}`" for p in patterns)
    near: list[str] = []
    for pattern in patterns:
        parts = pattern.count(".") + 1
        ends = sorted({".".join(name.split(".")[-n:]) for name in fit for n in range(1, parts + 2)})
        near += difflib.get_close_matches(pattern.replace("*", "").strip("."), ends, n=3, cutoff=0.5)
    why = f"; it hits only {', '.join(other)}" if other else ""
    closest = ", ".join(f"`{n}`" for n in dict.fromkeys(near)) or ", ".join(f"`{n}`" for n in sorted(fit)[:5])
    return RecipeError(f"no layer that can be adapted ({', '.join(layers)}) matches {shown}{why}. "
                       f"The closest module names: {closest}",
                       fix="name one of these in `targets`, or use attention, attention+ff, linear or all")


def attach(module: nn.Module, adapter: Learnable, modules: Sequence[str], *, seed: int | None) -> None:
    """Put the adapter on these layers of module, in place: only its parameters train, in 32 bits.

    seed: where the initial weights come from; None where `write_weights` follows. Global random state is left alone.
    """
    import torch
    from peft import inject_adapter_in_model

    names = tuple(modules)
    module.requires_grad_(False)
    if (placed := adapter.attach_direct(module, names)) is not None:
        setattr(module, DIRECT_ATTRIBUTE, placed)
        return
    assert isinstance(adapter, Adapter), "what peft does not put on is placed"
    layers = {name: module.get_submodule(name) for name in names}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed or 0)
        inject_adapter_in_model(adapter.peft_config(names), module, adapter_name=ADAPTER_NAME)
        if (beside := adapter.frozen_peft_config(names)) is not None:
            with warnings.catch_warnings():
                # that there are two is what is asked for
                warnings.simplefilter("ignore", UserWarning)
                inject_adapter_in_model(beside, module, adapter_name=ADAPTER_NAMES[FROZEN_PREFIX])
    _freeze_all_but_adapter(module)
    adapted = tuple(sorted(name for name, _ in _adapter_layers(module)))
    if adapted != tuple(sorted(names)):
        stray = sorted(set(adapted) ^ set(names))
        raise StageFailed(f"peft adapted other modules than asked for: {', '.join(stray[:5])}")
    if seed is not None:
        drawn = read_weights(module)
        if (first := adapter.initial_weights(layers, drawn)) is not drawn:
            write_weights(module, first)


def _freeze_all_but_adapter(module: nn.Module) -> None:
    """In 32 bits, and with peft's new layers, which come in training mode, in the mode of the rest."""
    slots = [slot for slot in ADAPTER_NAMES.values() if slot in _adapter_names(module)]
    for _, layer in _adapter_layers(module):
        layer.set_adapter(slots)
    module.train(module.training)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(ADAPTER_NAMES[FROZEN_PREFIX] not in name.split("."))


def _adapter_names(module: nn.Module) -> Sequence[str]:
    """peft's names of the adapters that stand on module."""
    return tuple(getattr(module, "peft_config", ()))


def read_weights(module: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights under peft's names: float32, on the CPU, contiguous, sorted by name."""
    import torch
    from peft import get_peft_model_state_dict

    if (placed := _direct_adapter(module)) is not None:
        return placed.read()
    state = {prefix + name: tensor for prefix, slot in ADAPTER_NAMES.items() if slot in _adapter_names(module)
             for name, tensor in get_peft_model_state_dict(module, adapter_name=slot,
                                                           save_embedding_layers=False).items()}
    return {name: state[name].detach().to("cpu", torch.float32, copy=True).contiguous()
            for name in sorted(state)}


def write_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the adapter's weights; names and shapes must be those that `read_weights` gives, else StageFailed."""
    from peft import set_peft_model_state_dict

    if (placed := _direct_adapter(module)) is not None:
        placed.write(state)
        return
    have = {name: tuple(tensor.shape) for name, tensor in read_weights(module).items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if have != given:
        wrong = sorted(name for name in have.keys() | given.keys() if have.get(name) != given.get(name))
        raise StageFailed(f"these weights are not this adapter's: {len(wrong)} names or shapes differ, "
                          f"such as {', '.join(wrong[:3])}", fix="run again with `--force adapt`")
    beside = {name for name in state if name.startswith(FROZEN_PREFIX)}
    set_peft_model_state_dict(module, {n: t for n, t in state.items() if n not in beside}, adapter_name=ADAPTER_NAME)
    if beside:
        set_peft_model_state_dict(module, {n.removeprefix(FROZEN_PREFIX): state[n] for n in beside},
                                  adapter_name=ADAPTER_NAMES[FROZEN_PREFIX])


@contextmanager
def disable_adapter(module: nn.Module) -> Iterator[None]:
    """While this is open, module computes as if it had no adapter."""
    if (placed := _direct_adapter(module)) is not None:
        with placed.disable_adapter():
            yield
        return
    layers = [layer for _, layer in _adapter_layers(module)]
    # peft would make all of an adapter trainable when it comes back
    trains = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, was in trains:
            parameter.requires_grad_(was)


def cast_for_inference(module: nn.Module, dtype: torch.dtype) -> None:
    """Make ready for use without autocast, when nothing is learnt any more. dtype: what module computes in."""
    if (placed := _direct_adapter(module)) is not None:
        placed.cast_for_inference(dtype)


def _direct_adapter(module: nn.Module) -> DirectWeights | None:
    return getattr(module, DIRECT_ATTRIBUTE, None)


def _adapter_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield name, layer
