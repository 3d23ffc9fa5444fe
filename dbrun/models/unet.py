"""What do families share whose denoiser is diffusers' UNet2DConditionModel?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import RecipeError
from dbrun.models.base import Condition, Family, Model
from dbrun.models.configs import downsampling_factor, read_config, silence_libraries

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dbrun.diffusion.process import DiffusionProcess

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TIME_EMBEDDING = ("time_emb_proj", "time_embedding.linear_1", "time_embedding.linear_2")
RESNETS = ("resnets.*.conv1", "resnets.*.conv2", "conv_shortcut")


class UNetFamily(Family):
    """A UNet that looks at one sequence of hidden states, and the pipeline around it."""

    model: ClassVar[type[UNetModel]]
    """What its bases are in memory."""

    component_docs: ClassVar[Mapping[str, str]] = {
        "denoiser": "The adapter of the denoiser (the UNet); left out, the denoiser is not trained."}
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {"denoiser": ("", "unet.")}

    def load_pipeline(self, folder: Path, *, device: torch.device, dtype: torch.dtype, variant: str | None,
                      left_out: Sequence[str]) -> Any:
        """The pipeline on device, frozen and in eval mode, without the parts that are left out. Raises RecipeError."""
        silence_libraries()
        import diffusers
        from torch import nn

        try:
            pipeline = getattr(diffusers, self.pipeline_classes[0]).from_pretrained(
                str(folder), dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True,
                requires_safety_checker=False, **dict.fromkeys(left_out))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{folder} cannot be loaded as a base of type {self.NAME}: {error}",
                              fix="check `base.path` and `base.variant`; only safetensors files are read") from error
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(device)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        return pipeline

    def native_resolution(self, folder: Path) -> int:
        """The UNet's own sample, enlarged as much as an autoencoder makes it smaller."""
        side = int(read_config(folder / "unet" / "config.json").get("sample_size") or 64)
        return side * (downsampling_factor(folder / "vae") if "vae" in self.subfolders else 1)


class UNetModel(Model):
    """A base whose denoiser is such a UNet."""

    def diffusion_process(self) -> DiffusionProcess:
        """The scheduler's betas and prediction type."""
        from dbrun.diffusion.process import DiffusionProcess

        return DiffusionProcess.from_config(self.scheduler.config)

    def collate_conditions(self, conditions: Sequence[Condition]) -> Condition:
        """`hidden` [B, L, D]."""
        import torch

        return {"hidden": torch.stack([c["hidden"] for c in conditions])}

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The UNet's prediction; where it returns twice the channels, the first half is the prediction."""
        unet, (device, dtype) = self.pipeline.unet, (self.device, self.dtype)
        sample, labels = self.denoiser_input(x_t, t, condition)
        output: Tensor = unet(sample.to(device, dtype), t.to(device),
                              encoder_hidden_states=condition["hidden"].to(device, dtype),
                              class_labels=None if labels is None else labels.to(device)).sample
        return drop_variance_channels(output, x_t)

    def denoiser_input(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """What the UNet sees of a noisy picture, and its class labels, None for a UNet without any."""
        return x_t, None


def drop_variance_channels(output: Tensor, x_t: Tensor) -> Tensor:
    """The prediction in a denoiser's output [B, C or 2C, h, w]: of twice x_t's channels the first half.

    The second half interpolates the variance (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15) and is not trained.
    """
    return output.chunk(2, dim=1)[0] if output.shape[1] == 2 * x_t.shape[1] else output
