"""Components of the base, kept in memory from one stage or run to the next, so that each is read only once."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from dbrun.models.component_weights import drop_component
from dbrun.peak_memory import resident_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dbrun.models.base import Model

MIN_FREE_SHARE = 2.0
"""Free CPU memory that must remain beside a kept component, as a multiple of its size."""


@dataclass(frozen=True)
class ComponentKey:
    """Content of a component in memory. base: digest of the artifact of `load`; name: in model_index.json.

    quantisation: name of that of its linear layers, None where they are the base's own.
    """

    base: str
    name: str
    dtype: torch.dtype
    quantisation: str | None


@dataclass
class ResidentBase:
    """The bases that the stages of a run have open, and the untouched components that the next stage may need.

    warm: keep every component, for further runs of this process; else only one denoiser, for the next stage.
    """

    warm: bool = False
    _open: list[tuple[str, Model]] = field(default_factory=list)
    _kept: dict[ComponentKey, nn.Module] = field(default_factory=dict)
    settings: ExitStack = field(default_factory=ExitStack)
    """What the stage has set in torch for its base; undone when the stage ends."""
    baseline: int = 0
    """Resident bytes of this process when the last stage opened its base, without what is kept: the libraries, and what
    earlier stages left. 0 where no stage has, or the system does not tell."""

    def stage_begins(self, counted: int | None = None) -> None:
        """Forget the baseline of the stage before, and all that is kept where the stage would not fit beside it.

        counted: bytes that an earlier `dbrun plan --memory` counted for the stage, None if unknown.
        """
        self.baseline = 0
        if counted is not None and counted > _free_bytes():
            self.forget()

    def forget(self) -> None:
        """Free all that is kept."""
        self._kept.clear()

    def opened(self, base: str, model: Model) -> None:
        """Let a base that a stage has just opened use what is kept of it. base: digest of the artifact of `load`."""
        if not self.baseline:
            self.baseline = max(0, resident_bytes() - sum(map(_module_bytes, self._kept.values())))
        # one base at a time: two would need the memory of both
        for key in [key for key in self._kept if key.base != base]:
            del self._kept[key]
        self._open.append((base, model))

        def find_kept(name: str) -> nn.Module | None:
            key = _component_key(base, model, name)
            module = self._kept.pop(key, None)
            if module is None or key.quantisation is not None:
                return module
            return module.to(model.weights.load_device(name))

        model.weights.find_kept = find_kept
        if self.warm:
            model.weights.hand_over = partial(self._keep, base, model)

    def stage_done(self) -> None:
        """Close the bases of a finished stage; untouched components stay, in CPU memory: without `warm` one denoiser.
        """
        from dbrun.formats.merge_weights import restore_base

        while self._open:
            base, model = self._open.pop()
            if self.warm or model.weights.quantisation is None:
                restore_base(model)
            if not self.warm and not self._kept:
                name = model.family.components["denoiser"]
                denoiser = model.weights.take_untouched(name)
                if denoiser is not None:
                    self._keep(base, model, name, denoiser)
            model.release(*model.family.weight_components)
        self.settings.close()

    def _keep(self, base: str, model: Model, name: str, module: nn.Module) -> None:
        """Keep an untouched component, in CPU memory, if that has room."""
        key = _component_key(base, model, name)
        # a quantised one does not survive `.to("cpu")`: its layers hold tensors that no such call moves
        if key.quantisation is None:
            if _has_room(module):
                self._kept[key] = module.to("cpu").eval().requires_grad_(False)
        elif self.warm and model.device.type == "cpu" and _has_room(module):
            self._kept[key] = module

    def close_failed(self) -> None:
        """Free the bases that a failed stage has left open, in a state that nobody knows, and all that is kept."""
        while self._open:
            _, model = self._open.pop()
            model.weights.hand_over = drop_component
            model.release(*model.family.weight_components)
            # the stage may have failed for want of memory
            self.forget()
        self.settings.close()


def _component_key(base: str, model: Model, name: str) -> ComponentKey:
    quantisation = None
    if name == model.family.components["denoiser"] and model.weights.quantisation is not None:
        quantisation = model.weights.quantisation.NAME
    return ComponentKey(base, name, model.family.component_dtype(name, model.dtype), quantisation)


def _module_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _has_room(module: nn.Module) -> bool:
    """Whether CPU memory has room for the module beside the work of the next stage."""
    return _free_bytes() >= MIN_FREE_SHARE * _module_bytes(module)


def _free_bytes() -> int:
    """CPU memory that nothing uses; 0 where the system does not tell: reading the base again is always right."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
