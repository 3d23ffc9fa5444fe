"""A base for measurements: every layer of SD 1.5, a tenth of its widths in all components, random weights.

The embedded base is no measure of a trainer that encodes pictures and prompts at each step: its autoencoder and text
encoder are far smaller beside its denoiser than those of the bases that people train.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interop.published_layouts import LAYOUTS, PublishedLayout

TEXT_WIDTH, VAE_WIDTH = 80, 16
"""768 and 128 as published. The UNet's 320 become 32, which its norms of 32 groups allow."""
LATENT_SIDE = 8
"""Latents a side at 64 pixels."""


class TenthOfWidths(PublishedLayout):
    """The layout with all widths a tenth of the published ones; `PublishedLayout` keeps a wider autoencoder."""

    def small_config(self, component: str) -> dict[str, Any]:
        """The config of a component."""
        config = super().small_config(component)
        if component == "vae":
            widths = [VAE_WIDTH, VAE_WIDTH * 2, VAE_WIDTH * 4, VAE_WIDTH * 4]
            return config | {"block_out_channels": widths, "norm_num_groups": VAE_WIDTH}
        if component == "unet":
            # class images are drawn at this size by diffusers' script, which is not told another
            return config | {"cross_attention_dim": TEXT_WIDTH, "sample_size": LATENT_SIDE}
        return config | {"hidden_size": TEXT_WIDTH, "intermediate_size": 4 * TEXT_WIDTH, "projection_dim": TEXT_WIDTH}


def write_small_base(folder: Path) -> None:
    """Write the base in diffusers format."""
    published = LAYOUTS["sd15"]
    TenthOfWidths(published.name, published.family, published.folder).write_small_base(folder)
