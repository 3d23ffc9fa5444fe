"""Facts of a family on adapter files that other programs read."""

from __future__ import annotations

from typing import ClassVar


class FileFacts:
    """Facts of a family on adapter files that other programs read, all of them without importing torch."""

    no_kohya_reason: ClassVar[str | None] = None
    """Why no file with kohya's names is written for it, a clause that follows the format's name; None for the usual."""
    comfyui_usage: ClassVar[str | None] = None
    """Sentence of model cards on ComfyUI, for a family whose file of the format `diffusers` it reads."""
