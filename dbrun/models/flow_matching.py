"""Shared base classes of the families that were trained by flow matching on latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.diffusion.prediction import ProcessKind
from dbrun.models.configs import downsampling_factor, read_config
from dbrun.models.latents import LatentModel
from dbrun.models.pipelines import PipelineFamily
from dbrun.models.scheduling import FLOW_MATCHING

if TYPE_CHECKING:
    from torch import Tensor

    from dbrun.diffusion.flow import FlowMatching
    from dbrun.options.timesteps import Shift


class FlowFamily(PipelineFamily):
    """Family with a transformer that predicts noise - x0 from latents cut into patches."""

    process: ClassVar[ProcessKind] = "flow"
    scheduler_classes: ClassVar[tuple[str, ...]] = FLOW_MATCHING
    autoencoder: ClassVar[str | None] = "vae"
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {"denoiser": ("", "transformer.")}
    patch: ClassVar[int] = 2
    """Side of a patch in latent pixels: each patch is one token of the transformer."""
    no_kohya_reason: ClassVar[str | None] = (
        "which is not written for transformers: kohya's files join layers that adapters hold apart")
    native_side: ClassVar[int] = 1024
    """Side in pixels of the pictures that its published bases were trained on."""

    def resolution_multiple(self, folder: Path) -> int:
        """The VAE's downsampling factor times the patch's side: 16 for the published models."""
        return downsampling_factor(folder / "vae") * self.patch

    def native_resolution(self, folder: Path) -> int:
        """`native_side`: the configs of transformers name no size."""
        return self.native_side

    def single_file_obstacle(self, folder: Path | None) -> str | None:
        """None of its bases is written as one file: the layouts differ from program to program."""
        return f"which has no layout for `base.type: {self.NAME}`; `merged` writes the whole pipeline as a folder"

    def takes_guidance(self, folder: Path) -> bool:
        """Whether the denoiser takes the guidance scale: its family may, and its config sets `guidance_embeds`."""
        config = read_config(folder / self.components["denoiser"] / "config.json")
        return self.embeds_guidance and bool(config.get("guidance_embeds"))


class FlowModel(LatentModel):
    """Base in memory that was trained by flow matching."""

    family: FlowFamily

    def diffusion_process(self) -> FlowMatching:
        """Flow matching over the timesteps of the base's scheduler."""
        from dbrun.diffusion.flow import FlowMatching

        return FlowMatching.from_config(self.scheduler.config)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of timesteps t [B] as the denoiser takes it: float32 [B] in (0, 1], on the device."""
        from dbrun.diffusion.device_copy import one_to_device

        return one_to_device(self.diffusion_process().sigma(t).float(), self.device)

    def token_count(self, shape: Sequence[int]) -> int:
        """Number of the transformer's tokens for x0 of this shape, [C, h, w]."""
        return prod(shape[-2:]) // self.family.patch**2

    def timestep_shift(self, wanted: Shift | None, shape: Sequence[int]) -> float:
        """Shift for x0 of this shape [C, h, w]; `wanted` None: fixed or by the size, as the base's scheduler says."""
        from dbrun.diffusion.flow import resolution_shift

        config = self.scheduler.config
        if wanted is None:
            wanted = "resolution" if config.get("use_dynamic_shifting") else float(config.get("shift", 1.0))
        if wanted == "none":
            return 1.0
        if wanted == "resolution":
            return resolution_shift(config, self.token_count(shape))
        return wanted


def transformer_presets(attention: tuple[str, ...], feed_forward: tuple[str, ...], modulation: tuple[str, ...],
                        around_blocks: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    """Presets of a transformer's layers, each wider than the one before. All: patterns of names of its linear layers.

    modulation: layers of the blocks that time or prompt set; around_blocks: the layers outside the blocks.
    """
    blocks = attention + feed_forward + modulation
    return {"attention": attention, "attention+ff": attention + feed_forward, "blocks": blocks,
            "linear": blocks + around_blocks}
