"""Pictures of a base without and with adapters, as `export`, `select` and `evaluate` draw them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import cast_for_inference
from dbrun.diffusion.prediction import PredictionType
from dbrun.models.base import Model
from dbrun.options.precision import Precision
from dbrun.stages.sources import Numerics
from dbrun.stages.support.base_loading import sampling_precision


class PictureParams(Protocol):
    """The params of a stage that a picture depends on; see `ExportParams`."""

    @property
    def steps(self) -> int:
        """Sampler steps."""

    @property
    def guidance(self) -> float:
        """Classifier-free guidance scale."""

    @property
    def resolution(self) -> int:
        """Side in pixels."""

    @property
    def precision(self) -> Precision:
        """Number format of the base, the recipe's."""

    @property
    def prediction(self) -> PredictionType | None:
        """Prediction type of the trained adapter, None for the base's."""

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the adapter was trained with a scheduler of zero terminal SNR."""

    @property
    def quantise(self) -> str | None:
        """Number format of the denoiser's linear layers, None for `precision`."""

    @property
    def deterministic(self) -> bool:
        """Whether torch's deterministic algorithms are used."""

    @property
    def block(self) -> int:
        """Number of pictures that are drawn at once."""


def picture_key(params: PictureParams, numerics: Numerics, *, base: str, adapter: str | None, prompt: str,
                seed: int) -> dict[str, object]:
    """The cache key of one picture. base: digest of the artifact of `load`; adapter: identity, None for the bare base.
    """
    # without an adapter in it, so that a picture of the base is drawn once for all trainings on it
    key: dict[str, object] = {
        "base": base, "adapter": adapter, "prompt": prompt, "seed": seed, "steps": params.steps,
        "guidance": params.guidance, "resolution": params.resolution,
        "precision": sampling_precision(params.precision, numerics)}
    # an adapter is also sampled with the scheduler that it was trained for
    if adapter is not None and params.prediction:
        key["prediction"] = params.prediction
    if adapter is not None and params.zero_terminal_snr:
        key["zero_snr"] = params.zero_terminal_snr
    if params.quantise is not None:
        key["quantise"] = params.quantise
    if params.deterministic:
        key["deterministic"] = True
    if params.block > 1:
        key["block"] = params.block
    return key


def attach_for_drawing(model: Model, adapters: Mapping[str, ComponentAdapter]) -> None:
    """Attach adapters to a loaded base, in its precision."""
    for name, attached in adapters.items():
        attached.attach_to(model.module(name))
        cast_for_inference(model.module(name), model.dtype)
