"""How the bases of a family were trained: the part of `Family` that objectives and schedulers are checked against."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from dbrun.diffusion.prediction import ProcessKind
from dbrun.models.configs import SCHEDULER_FILE, read_config


class TrainingFacts:
    """Facts of a family on the training of its bases, all of them without importing torch."""

    scheduler_folders: ClassVar[tuple[str, ...]] = ("scheduler",)
    """Those of the sub-folders that hold a scheduler config."""
    process: ClassVar[ProcessKind] = "ddpm"
    """Process that its bases were trained with; `check_configs` refuses a base whose scheduler follows another."""
    scheduler_classes: ClassVar[tuple[str, ...]]
    """Values of `_class_name` in a scheduler config whose process the family's training follows."""
    embeds_guidance: ClassVar[bool] = False
    """Whether its denoiser may take the guidance scale as an input, so that `train.guidance` has a meaning."""
    class_labels: ClassVar[tuple[str, ...]] = ("none",)
    """Allowed values of `train.class_labels`; the first is what the diffusers pipeline uses when it samples."""
    class_labels_doc: ClassVar[str] = ""
    """Text of `train.class_labels` in the recipe's schema; empty where there is nothing to choose."""

    def takes_guidance(self, folder: Path) -> bool:
        """Whether the denoiser of the base in folder takes the guidance scale as an input; without torch."""
        return self.embeds_guidance

    def distillation_warning(self, folder: Path | None, path: str) -> str | None:
        """Why a base should not be trained, as it was distilled to few steps, and the one to train; None if it may be.

        A clause that follows "the base". folder: the base's, None while it is not here; path: `base.path`.
        """
        return None

    def scheduler_config(self, folder: Path) -> dict[str, Any]:
        """Config of the base's scheduler, read from folder; without torch. Raises RecipeError."""
        return read_config(folder / "scheduler" / SCHEDULER_FILE)
