"""Does an exported adapter do in its own library what it did in training?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.errors import StageFailed
from dbrun.formats.base import Format
from dbrun.models.base import Model

if TYPE_CHECKING:
    from torch import Tensor

EFFECT_TOLERANCE, OUTPUT_TOLERANCE = 1e-3, 1e-5
"""Tolerance: a share of what the adapter changes, and a share of the prediction's own size for rounding."""


def describe_difference(difference: float) -> str:
    """The largest difference of two predictions, in words."""
    return f"predictions differ by at most {difference:.1e}" if difference else "predictions are the same"


@dataclass(frozen=True)
class Probe:
    """A seeded question to a denoiser: noisy samples of noise pictures under one prompt, at three times."""

    prompt: str
    side: int

    def predict(self, model: Model) -> Tensor:
        """The prediction [3, C, h, w], float32 on the CPU; the prompt goes through the text encoder as it is."""
        import torch

        from dbrun.training.device import generator

        draw = generator(0, "probe")
        with torch.inference_mode(), _full_precision():
            pixels = torch.rand(3, 3, self.side, self.side, generator=draw) * 2 - 1
            stored = model.encode_images(pixels).cpu()
            x0, extra_conditions = model.sample_x0(stored, lambda _, shape: torch.zeros(len(stored), *shape),
                                   model.family.class_labels[0])
            process = model.diffusion_process()
            t = torch.tensor([process.num_timesteps * k // 4 for k in (1, 2, 3)])
            x_t = process.add_noise(x0, torch.randn(x0.shape, generator=draw), t)
            condition = model.collate_conditions(model.encode_prompts([self.prompt]) * 3)
            return model.predict(x_t, t, {**condition, **extra_conditions}).float().cpu()


@dataclass(frozen=True)
class ReferencePredictions:
    """What an adapter did in training. base_prediction, trained_prediction: the probe's answers without and with it."""

    base_prediction: Tensor
    trained_prediction: Tensor
    adapters: Mapping[str, ComponentAdapter]

    @property
    def effect(self) -> float:
        """The largest change that the adapter makes to the prediction."""
        return float((self.trained_prediction - self.base_prediction).abs().max())

    @property
    def tolerance(self) -> float:
        """The largest difference at which a reloaded adapter is still the same."""
        return EFFECT_TOLERANCE * self.effect + OUTPUT_TOLERANCE * float(self.trained_prediction.abs().max())

    def compare(self, answer: Tensor, model: Model, form: Format,
                components: Iterable[str] | None = None) -> float:
        """The largest difference of a reloaded adapter's answer. Raises StageFailed where it is another adapter.

        components: those that the format carries; left out, all.
        """
        name = form.NAME
        for component in self.adapters if components is None else components:
            written = form.expected_weights(self.adapters[component])
            arrived = form.loaded_weights(model.module(component), written)
            if lost := [key for key in sorted(written.keys() | arrived.keys())
                        if not _are_equal(arrived.get(key), written.get(key))]:
                raise StageFailed(f"{name}: its library ignored or changed {len(lost)} weights of {component}, "
                                  f"such as {lost[0]}", fix="leave this format out of `export`")
        difference = float((answer - self.trained_prediction).abs().max())
        if not difference <= self.tolerance:
            raise StageFailed(f"{name}: read back, the adapter's prediction differs by {difference:.2g}; allowed is "
                              f"{self.tolerance:.2g}, and the adapter itself changes it by {self.effect:.2g}",
                              fix="leave this format out of `export`")
        return difference


def _are_equal(arrived: Tensor | None, written: Tensor | None) -> bool:
    import torch

    return arrived is not None and written is not None and torch.equal(arrived.detach().float().cpu(), written.float())


@contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions in full 32 bits, so that the tolerance means the same on every device."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
