"""Attaching an adapter to a module, and reading and writing its weights there."""

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
"""peft's name for the trained adapter; no file contains it."""
FROZEN_PREFIX = "start/"
"""Prefix of the weight names of the second, frozen adapter (PiSSA's start). peft's own names contain no `/`."""
ADAPTER_NAMES = {"": ADAPTER_NAME, FROZEN_PREFIX: FROZEN_PREFIX.rstrip("/")}
"""Prefix of a weight's name -> peft's name for the adapter that the weight belongs to."""
DIRECT_ATTRIBUTE = "learning_in_place"
"""Attribute of a module that holds its `DirectWeights`, for weights that learn without peft."""


def match_layers(module: nn.Module, patterns: Sequence[str],
                 layers: Sequence[str] = Adapter.layer_classes) -> tuple[str, ...]:
    """Full names of the layers that match any pattern, sorted; layers: class names that can be adapted.

    A pattern is a module's name or a dotted end of it; `*` stands for any part of a name. Raises RecipeError
    if no layer matches.
    """
    kinds = {name: type(m).__mro__ for name, m in module.named_modules() if name}
    # By class names along the inheritance: subclasses count, and the adapter type needs no import of torch.
    fit = []
    for name, mro in kinds.items():
        if not {c.__name__ for c in mro}.isdisjoint(layers):
            fit.append(name)
    matches = matching_names(fit, patterns)
    if not matches:
        other = sorted({kinds[name][0].__name__ for name in matching_names(kinds, patterns)})
        raise no_match_error(patterns, fit, layers, other)
    return tuple(matches)


def matching_names(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that match any pattern, sorted; patterns as in `match_layers`."""
    expressions = []
    for pattern in patterns:
        # The optional front makes `to_q` match `mid.attn.to_q` but never `mid.attn.not_to_q`.
        literal = rf"(?:.*\.)?{re.escape(pattern)}"
        expressions.append(literal.replace(r"\*", ".*"))
    wanted = re.compile("|".join(expressions))
    return sorted(name for name in names if wanted.fullmatch(name))


def no_match_error(patterns: Sequence[str], fit: Sequence[str], layers: Sequence[str],
                   other: Sequence[str] = ()) -> RecipeError:
    """Error for patterns that match no layer, with the closest names.

    fit: names of the layers that can be adapted; layers: their class names; other: class names that the patterns
    match instead.
    """
    close: list[str] = []
    for pattern in patterns:
        # A pattern is compared with ends of about its own length: whole names differ mostly in their long front.
        length = pattern.count(".") + 2
        ends: set[str] = set()
        for name in fit:
            words = name.split(".")
            ends.update(".".join(words[-n:]) for n in range(1, length + 1))
        literal = pattern.replace("*", "").strip(".")
        close += difflib.get_close_matches(literal, sorted(ends), n=3, cutoff=0.5)
    suggestions = list(dict.fromkeys(close)) or sorted(fit)[:5]
    why = ""
    if other:
        why = f"; it matches only {', '.join(other)}"
    shown = ", ".join(f"`{pattern}`" for pattern in patterns)
    closest = ", ".join(f"`{name}`" for name in suggestions)
    return RecipeError(f"no layer that can be adapted ({', '.join(layers)}) matches {shown}{why}. "
                       f"The closest module names: {closest}",
                       fix="name one of these in `targets`, or use a preset such as attention or linear")


def attach(module: nn.Module, adapter: Learnable, modules: Sequence[str], *, seed: int | None) -> None:
    """Attach the adapter to these layers of module, in place; only its weights are trainable, in float32.

    seed: seed of the initial weights; None if `write_weights` follows. The global random state does not change.
    Raises StageFailed if peft adapts other layers than these.
    """
    import torch
    from peft import inject_adapter_in_model

    names = tuple(modules)
    module.requires_grad_(False)
    direct = adapter.attach_direct(module, names)
    if direct is not None:
        setattr(module, DIRECT_ATTRIBUTE, direct)
        return
    assert isinstance(adapter, Adapter), "whatever peft does not attach, attach_direct attaches"

    # The bare layers: peft replaces them below, and initial weights may be made from theirs.
    layers = {name: module.get_submodule(name) for name in names}
    # peft draws from the global generator only; fork_rng gives it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed or 0)
        inject_adapter_in_model(adapter.peft_config(names), module, adapter_name=ADAPTER_NAME)
        frozen = adapter.frozen_peft_config(names)
        if frozen is not None:
            with warnings.catch_warnings():
                # peft warns of a second adapter, which is intended here
                warnings.simplefilter("ignore", UserWarning)
                inject_adapter_in_model(frozen, module, adapter_name=ADAPTER_NAMES[FROZEN_PREFIX])
    _freeze_all_but_adapter(module)

    # peft matches target_modules by ends of names: `a.to_q` would also match `b.a.to_q`.
    adapted = {name for name, _ in _adapter_layers(module)}
    stray = sorted(adapted ^ set(names))
    if stray:
        raise StageFailed(f"peft adapted other modules than asked for: {', '.join(stray[:5])}")

    if seed is not None:
        drawn = read_weights(module)
        initial = adapter.initial_weights(layers, drawn)
        # Most types return what peft drew; writing it back would only cost a copy.
        if initial is not drawn:
            write_weights(module, initial)


def _freeze_all_but_adapter(module: nn.Module) -> None:
    """Make only the trained adapter's weights trainable, in float32."""
    slots = [slot for slot in ADAPTER_NAMES.values() if slot in _adapter_names(module)]
    for _, layer in _adapter_layers(module):
        layer.set_adapter(slots)
    # peft's new layers come in training mode; give them the mode of the rest.
    module.train(module.training)
    frozen_slot = ADAPTER_NAMES[FROZEN_PREFIX]
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            # Optimizer steps are smaller than what 16 bits can add to a weight.
            parameter.data = parameter.data.float()
            parameter.requires_grad_(frozen_slot not in name.split("."))


def _adapter_names(module: nn.Module) -> Sequence[str]:
    """peft's names of the adapters on module."""
    return tuple(getattr(module, "peft_config", ()))


def read_weights(module: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights by peft's names: float32, on the CPU, contiguous, sorted by name.

    Shapes are those of the adapter type; LoRA on a linear layer: A [rank, in], B [out, rank].
    """
    import torch
    from peft import get_peft_model_state_dict

    direct = direct_adapter(module)
    if direct is not None:
        return direct.read()
    state = {}
    for prefix, slot in ADAPTER_NAMES.items():
        if slot not in _adapter_names(module):
            continue
        weights = get_peft_model_state_dict(module, adapter_name=slot, save_embedding_layers=False)
        for name, tensor in weights.items():
            state[prefix + name] = tensor
    # copy=True: without it a float32 weight on the CPU would be the live parameter, which training would change
    return {name: state[name].detach().to("cpu", torch.float32, copy=True).contiguous()
            for name in sorted(state)}


def write_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set the adapter's weights, such as A [rank, in] and B [out, rank]: names and shapes as `read_weights` gives them.

    Raises StageFailed if they differ.
    """
    from peft import set_peft_model_state_dict

    direct = direct_adapter(module)
    if direct is not None:
        direct.write(state)
        return
    # Checked here, because peft ignores names that it does not know.
    expected = {name: tuple(tensor.shape) for name, tensor in read_weights(module).items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != given:
        wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise StageFailed(f"the stored weights do not fit the adapter: {len(wrong)} names or shapes differ, "
                          f"such as {', '.join(wrong[:3])}", fix="run again with `--force adapt`")
    trained: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(FROZEN_PREFIX):
            frozen[name.removeprefix(FROZEN_PREFIX)] = tensor
        else:
            trained[name] = tensor
    set_peft_model_state_dict(module, trained, adapter_name=ADAPTER_NAME)
    if frozen:
        set_peft_model_state_dict(module, frozen, adapter_name=ADAPTER_NAMES[FROZEN_PREFIX])


@contextmanager
def disable_adapter(module: nn.Module) -> Iterator[None]:
    """Context manager: switch the adapter of module off; switch it on again, unchanged, on exit."""
    direct = direct_adapter(module)
    if direct is not None:
        with direct.disable_adapter():
            yield
        return
    layers = [layer for _, layer in _adapter_layers(module)]
    # enable_adapters(True) makes every weight trainable, the frozen second adapter's too: restore what was.
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in trainable:
            parameter.requires_grad_(requires_grad)


def cast_for_inference(module: nn.Module, dtype: torch.dtype) -> None:
    """Prepare module for use without autocast, once training is over; dtype: what module computes in."""
    # peft's layers cast their own inputs; only weights that learnt in place are of another dtype than their layer.
    direct = direct_adapter(module)
    if direct is not None:
        direct.cast_for_inference(dtype)


def direct_adapter(module: nn.Module) -> DirectWeights | None:
    """The weights of module that learn in place; None where there are none."""
    return getattr(module, DIRECT_ATTRIBUTE, None)


def _adapter_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of every layer that peft has wrapped."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield name, layer
