"""The denoiser of the base, kept in memory from one stage of a run to the next, so that it is read only once."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dbrun.peak_memory import resident_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dbrun.models.base import Model

MIN_FREE_SHARE = 2.0
"""Free CPU memory that must remain beside a kept denoiser, as a multiple of its size."""


@dataclass(frozen=True)
class ComponentKey:
    """Content of a component in memory. base: digest of the artifact of `load`; name: in model_index.json."""

    base: str
    name: str
    dtype: torch.dtype


@dataclass
class ResidentBase:
    """The bases that the stages of a run have open, and the untouched denoiser that the next stage may need."""

    _open: list[tuple[str, Model]] = field(default_factory=list)
    _kept: dict[ComponentKey, nn.Module] = field(default_factory=dict)
    settings: ExitStack = field(default_factory=ExitStack)
    """What the stage has set in torch for its base; undone when the stage ends."""
    baseline: int = 0
    """Resident bytes of this process when the last stage opened its base, without the kept denoiser: the libraries, and
    what earlier stages left. 0 where no stage has, or the system does not tell."""

    def stage_begins(self) -> None:
        """Forget the baseline of the stage before."""
        self.baseline = 0

    def opened(self, base: str, model: Model) -> None:
        """Let a base that a stage has just opened use what is kept of it. base: digest of the artifact of `load`."""
        if not self.baseline:
            self.baseline = max(0, resident_bytes() - sum(map(_module_bytes, self._kept.values())))
        self._open.append((base, model))
        if model.weights.quantisation is not None:
            return
        key = _denoiser_key(base, model)

        def find_kept(name: str) -> nn.Module | None:
            if name != key.name or key not in self._kept:
                return None
            return self._kept.pop(key).to(model.weights.load_device(name))

        model.weights.find_kept = find_kept

    def stage_done(self) -> None:
        """Free the bases of a finished stage; one untouched denoiser stays, in CPU memory."""
        while self._open:
            base, model = self._open.pop()
            # a quantised denoiser does not survive `.to("cpu")`: its layers hold tensors that no such call moves
            if model.weights.quantisation is None:
                self._keep_denoiser(base, model)
            model.release(*model.family.weight_components)
        self.settings.close()

    def _keep_denoiser(self, base: str, model: Model) -> None:
        """Keep the model's denoiser, as it was loaded, if nothing is kept yet and memory has room."""
        from dbrun.formats.merge_weights import restore_base

        restore_base(model)
        key = _denoiser_key(base, model)
        denoiser = model.weights.take_untouched(key.name)
        if denoiser is not None and not self._kept and _has_room(denoiser):
            self._kept[key] = denoiser.to("cpu")

    def close_failed(self) -> None:
        """Free the bases that a failed stage has left open, in a state that nobody knows."""
        while self._open:
            _, model = self._open.pop()
            model.release(*model.family.weight_components)
        self.settings.close()


def _denoiser_key(base: str, model: Model) -> ComponentKey:
    name = model.family.components["denoiser"]
    return ComponentKey(base, name, model.family.component_dtype(name, model.dtype))


def _module_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _has_room(module: nn.Module) -> bool:
    """Whether CPU memory has room for the module beside the work of the next stage."""
    size = _module_bytes(module)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        # no such figure on this system: reading the base again is always right
        return False
    return free >= MIN_FREE_SHARE * size
