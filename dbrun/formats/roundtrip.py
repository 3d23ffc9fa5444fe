"""The check of an export: read back by its own library, an adapter must predict what it did in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.errors import StageFailed
from dbrun.formats.base import Format
from dbrun.formats.merge_weights import restore_base
from dbrun.models.base import Model
from dbrun.models.prompt_encoding import NOTHING_KNOWN, EncoderOutput, KnownOutputs

if TYPE_CHECKING:
    from torch import Tensor


class Tolerance(NamedTuple):
    """Shares of a difference that rounding explains: effect, of the adapter's own effect; output, of the prediction."""

    effect: float
    output: float


TOLERANCES = {"float32": Tolerance(1e-3, 1e-5), "float16": Tolerance(1e-2, 3e-3), "bfloat16": Tolerance(5e-2, 2e-2)}
"""By the dtype that predicts. float16 keeps 11 binary digits and bfloat16 8; through all layers of the embedded base
bfloat16's rounding adds up to 8e-3 of the prediction (measured), and its share here is twice that."""


def describe_difference(difference: float) -> str:
    """The largest difference of two predictions, in words."""
    if not difference:
        return "predictions are the same"
    return f"predictions differ by at most {difference:.1e}"


@dataclass(frozen=True)
class Probe:
    """A seeded input of the denoiser: three noise images under one prompt, at a quarter, a half and three quarters
    of the noise schedule.

    prompt: the text; side: side of the images in pixels.
    """

    prompt: str
    side: int

    def predict(self, model: Model, known: KnownOutputs = NOTHING_KNOWN) -> Tensor:
        """The prediction [3, C, h, w], float32 on the CPU; the text encoder is the model's own, adapted or not.

        known: what the base's text encoders give of the prompt; a text encoder that was replaced runs all the same.
        """
        import torch

        from dbrun.training.device import generator

        draw = generator(0, "probe")
        with torch.inference_mode(), _full_precision():
            pixels = torch.rand(3, 3, self.side, self.side, generator=draw) * 2 - 1
            # On the CPU like all draws here, so that every device is given the same numbers.
            latents = model.encode_images(pixels).cpu()
            # No noise in the autoencoder's sample: its mean is enough for a comparison.
            x0, extra_conditions = model.sample_x0(latents, lambda _, shape: torch.zeros(len(latents), *shape),
                                                   model.family.class_labels[0])
            process = model.diffusion_process()
            t = torch.tensor([process.num_timesteps * k // 4 for k in (1, 2, 3)])
            noise = torch.randn(x0.shape, generator=draw)
            x_t = process.add_noise(x0, noise, t)
            condition = model.collate_conditions(model.encode_prompts([self.prompt], _of_the_base(model, known)) * 3)
            prediction = model.predict(x_t, t, {**condition, **extra_conditions})
            return prediction.float().cpu()


@dataclass(frozen=True)
class ReferencePredictions:
    """Predictions from training that an export is compared with.

    base_prediction, trained_prediction: the probe's predictions [3, C, h, w] without and with the adapters; dtype: in
    which they were computed, such as `float32`; input_rounding: that of the base's quantisation.
    """

    base_prediction: Tensor
    trained_prediction: Tensor
    adapters: Mapping[str, ComponentAdapter]
    dtype: str = "float32"
    input_rounding: float = 0.0

    @property
    def effect(self) -> float:
        """Largest absolute change of the prediction by the adapters."""
        return float((self.trained_prediction - self.base_prediction).abs().max())

    @property
    def tolerance(self) -> float:
        """Largest difference at which a reloaded adapter still counts as the same."""
        share = TOLERANCES[self.dtype]
        output_share = max(share.output, self.input_rounding)
        return share.effect * self.effect + output_share * float(self.trained_prediction.abs().max())

    def compare(self, answer: Tensor, model: Model, form: Format,
                components: Iterable[str] | None = None) -> float:
        """Largest difference of a reloaded adapter's prediction. Raises StageFailed if it exceeds the tolerance.

        answer: the reloaded model's prediction [3, C, h, w]; components: those that the format carries, by default all.
        Also raises StageFailed if the library ignored or changed a weight.
        """
        name = form.NAME
        if components is None:
            components = self.adapters
        for component in components:
            written = form.expected_weights(self.adapters[component])
            loaded = form.loaded_weights(model.module(component), written)
            # Weights first: an ignored weight of little effect would hide within the tolerance.
            lost = [key for key in sorted(written.keys() | loaded.keys())
                    if not _are_equal(loaded.get(key), written.get(key))]
            if lost:
                raise StageFailed(f"{name}: its library ignored or changed {len(lost)} weights of {component}, "
                                  f"such as {lost[0]}", fix="leave this format out of `export`")
        difference = float((answer - self.trained_prediction).abs().max())
        # Negated, so that NaN fails.
        if not difference <= self.tolerance:
            raise StageFailed(f"{name}: read back, the adapter's prediction differs by {difference:.2g}; allowed is "
                              f"{self.tolerance:.2g}, and the adapter itself changes it by {self.effect:.2g}",
                              fix="leave this format out of `export`")
        return difference


def measure(probe: Probe, model: Model, adapters: Mapping[str, ComponentAdapter],
            known: KnownOutputs = NOTHING_KNOWN) -> ReferencePredictions:
    """The probe's predictions without and with adapters. model: the untouched base, which it is again afterwards.

    known: as in `Probe.predict`, of the text encoders that the adapters leave as they are.
    """
    base = probe.predict(model, known)
    for name, attached in adapters.items():
        attached.attach_to(model.module(name))
    trained = probe.predict(model, known)
    restore_base(model)
    rounding = 0.0
    if model.weights.quantisation is not None:
        rounding = model.weights.quantisation.INPUT_ROUNDING
    return ReferencePredictions(base, trained, adapters, str(model.dtype).removeprefix("torch."), rounding)


def _of_the_base(model: Model, known: KnownOutputs) -> KnownOutputs:
    """The known outputs of those text encoders that are still the base's: others in memory were read from an export."""
    loaded, weights = model.weights.loaded, model.weights
    replaced = {name for name in model.family.text_encoders if name in loaded and not weights.is_untouched(name)}
    kept: dict[str, dict[str, EncoderOutput]] = {}
    for prompt, outputs in known.items():
        kept[prompt] = {name: output for name, output in outputs.items() if name not in replaced}
    return kept


def _are_equal(loaded: Tensor | None, written: Tensor | None) -> bool:
    import torch

    if loaded is None or written is None:
        return False
    # a library may hold the file's weights in the base's 16 bits: the rounded number is then the right one
    return torch.equal(loaded.detach().cpu(), written.to(loaded.dtype))


@contextmanager
def _full_precision() -> Iterator[None]:
    """Context manager: convolutions in full float32 (no TF32), so that the tolerance fits every device."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
