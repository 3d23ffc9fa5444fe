"""Bases that `dbrun new` writes starter recipes for, and how each fits on a graphics card.

The settings of a base are those of its recipe in `recipes/`; only what depends on the card stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dbrun.errors import UsageError
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.shipped import shipped_recipes

WHOLE: Mapping[str, object] = MappingProxyType({})
NF4 = MappingProxyType({"quantise": "nf4"})
OFFLOAD = MappingProxyType({"offload": "blocks"})
EMBEDDED = "embedded"


@dataclass(frozen=True)
class StarterBase:
    """One base. recipe: name of the recipe that comes with dbrun; summary: for people who choose.

    repository: on the Hub, empty for the embedded base; its configs are in `models.published_bases`.
    fits: (smallest card in GB, settings that make it fit there), the best settings first; empty: no card is needed.
    download: its size in GB, without what the recipe does not use; gated: whether its licence is accepted on the Hub
    before the Hub gives it.
    """

    recipe: str
    summary: str
    repository: str = ""
    fits: tuple[tuple[int, Mapping[str, object]], ...] = ()
    download: int = 0
    gated: bool = False

    @property
    def smallest_card(self) -> int:
        """Memory in GB of the smallest card that it fits on; 0 where none is needed."""
        return min((card for card, _ in self.fits), default=0)

    @property
    def needs(self) -> str:
        """What it needs, such as "a card of 8 GB, a download of 7 GB"; empty for nothing."""
        parts = []
        if self.fits:
            parts.append(f"a card of {self.smallest_card} GB")
        if self.download:
            parts.append(f"a download of {self.download} GB")
        if self.gated:
            parts.append("a login")
        return ", ".join(parts)

    def settings_for(self, memory: float) -> Mapping[str, object] | None:
        """Settings for a card of this memory in GB; None where no setting makes it fit."""
        if not self.fits:
            return WHOLE
        return next((settings for card, settings in self.fits if card <= memory), None)


# as tests/recipe/test_starter_memory.py counts it from the published configs, with 0.75 GiB of a card kept free
STARTER_BASES: Mapping[str, StarterBase] = MappingProxyType({
    EMBEDDED: StarterBase("sks_dog", "a small one that only draws; no GPU, no download: to try dbrun out"),
    "sd15": StarterBase("sks_dog_sd15", "Stable Diffusion 1.5, 512 pixels",
                        "stable-diffusion-v1-5/stable-diffusion-v1-5", ((8, WHOLE),), 2),
    "sdxl": StarterBase("sdxl_dog", "Stable Diffusion XL: the most widely used",
                        "stabilityai/stable-diffusion-xl-base-1.0", ((12, WHOLE), (8, OFFLOAD)), 7),
    "sd35": StarterBase("sd35_dog", "Stable Diffusion 3.5 medium", "stabilityai/stable-diffusion-3.5-medium",
                        ((16, WHOLE), (12, OFFLOAD)), 16, gated=True),
    "flux1": StarterBase("flux1_dog", "FLUX.1 dev, not for commercial use", "black-forest-labs/FLUX.1-dev",
                         ((24, NF4), (12, OFFLOAD)), 34, gated=True),
    "flux2-klein": StarterBase("flux2_klein_dog", "FLUX.2 klein 4B", "black-forest-labs/FLUX.2-klein-base-4B",
                               ((24, WHOLE), (12, OFFLOAD)), 16),
    "z-image": StarterBase("z_image_dog", "Z-Image, 6 B parameters", "Tongyi-MAI/Z-Image",
                           ((24, WHOLE), (12, OFFLOAD)), 20),
    "chroma": StarterBase("chroma_dog", "Chroma1-HD, 9 B parameters", "lodestones/Chroma1-HD",
                          ((24, NF4), (12, OFFLOAD)), 28),
    "krea2": StarterBase("krea2_dog", "Krea 2 Raw, 13 B parameters", "krea/Krea-2-Raw",
                         ((24, NF4), (12, OFFLOAD)), 35, gated=True),
    "qwen-image": StarterBase("qwen_image_dog", "Qwen-Image 2512, 20 B parameters", "Qwen/Qwen-Image-2512",
                              ((24, OFFLOAD),), 58),
})
"""Word for `dbrun new --base` → the base."""


def starter_base_at(repository: str) -> StarterBase | None:
    """The base of a repository on the Hub; None for another repository."""
    return next((base for base in STARTER_BASES.values() if base.repository == repository), None)


def starter_bases() -> Mapping[str, StarterBase]:
    """The bases whose recipes came with this dbrun."""
    return {name: base for name, base in STARTER_BASES.items() if base.recipe in shipped_recipes()}


def find_starter_base(name: str) -> StarterBase:
    """The base of this name; `z_image` and `Z-Image` are `z-image`. Raises UsageError."""
    bases = starter_bases()
    plain = name.strip().lower().replace("_", "-")
    if plain in bases:
        return bases[plain]
    close = nearest(plain, tuple(bases)) or "sdxl"
    raise UsageError(f"found --base {name!r}, allowed: {', '.join(bases)}", fix=f"write --base {close}")


def card_settings(name: str, memory: float) -> Mapping[str, object]:
    """Settings of a base for a card of this memory in GB. Raises UsageError where the base does not fit."""
    base = find_starter_base(name)
    settings = base.settings_for(memory)
    if settings is not None:
        return settings
    fitting = [other for other, one in starter_bases().items() if one.fits and one.smallest_card <= memory]
    if fitting:
        fix = f"for such a card write --base {' or '.join(fitting)}"
    else:
        fix = f"write --base {EMBEDDED}, which needs no card"
    raise UsageError(f"found a card of {memory:g} GB, and {name} needs {base.smallest_card} GB", fix=fix)
