"""The single_file format: one checkpoint in the base's original layout, for ComfyUI, A1111 and diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.errors import StageFailed
from dbrun.formats.component import ComponentFormat
from dbrun.formats.merged import merge_all
from dbrun.models.base import Family, Model
from dbrun.models.ldm_layouts import V_PREDICTION_MARK, ZERO_SNR_MARK

FILE = "single_file.safetensors"


class SingleFileFormat(ComponentFormat):
    """`single_file.safetensors`: denoiser, autoencoder and text encoder, in float32, as large as the base."""

    NAME: ClassVar[str] = "single_file"
    SUMMARY: ClassVar[str] = "that as one checkpoint"
    SPEC_SUFFIX: ClassVar[str | None] = ""
    POSITION: ClassVar[int] = 60
    CONTENT: ClassVar[str] = "a whole pipeline"
    HOLDS_ALL: ClassVar[bool] = True

    def peak_copies(self, weights: Mapping[str, int], adapted: Sequence[str]) -> int:
        """The whole file, as it is read back: more than the merged weights that it is written from."""
        return sum(weights.values())

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Clause for families without such a layout."""
        return family.single_file_obstacle(None)

    def loading_lines(self, family: Family, recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """None: it is for other programs, and `merged/` for diffusers."""
        return ()

    def usage(self, family: Family) -> str | None:
        """Instructions for ComfyUI and A1111."""
        return (f"`{FILE}` is a whole checkpoint: in ComfyUI it goes into `models/checkpoints/`, in A1111 into "
                "`models/Stable-diffusion/`.")

    def unsupported_base_reason(self, family: Family, base: Path) -> str | None:
        """Clause for bases without such a layout."""
        return family.single_file_obstacle(base)

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write the one file; returns it. Raises StageFailed if the base has no such layout."""
        from safetensors.torch import save_file

        from dbrun.models.ldm_keys import process_marks

        model = bare()
        # The plan asked this already, except for a base that was downloaded after it.
        why = self.unsupported_base_reason(family, model.folder)
        if why:
            raise StageFailed(f"found '{self.NAME}', {why}", fix="leave this format out of `export`")
        tensors = merge_all(family, adapters, model).single_file_state_dict()
        # the file holds no scheduler: ComfyUI and Forge go by these
        save_file({**tensors, **process_marks(model.scheduler.config)}, folder / FILE, metadata={"format": "pt"})
        return (folder / FILE,)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Replace the base's modules, read with `from_single_file` of its pipeline's class and the base's configs.

        Raises StageFailed if that ignores or changes a tensor of the file.
        """
        import torch
        from safetensors.torch import load_file

        model.release(*model.family.weight_components)
        base = model.pipeline_with()
        # None for what the base lacks, such as a safety checker: `from_single_file` would download it.
        lacking = [name for name, part in base.components.items() if part is None]
        absent = dict.fromkeys(name for name in lacking if name not in model.family.weight_components)
        loaded = type(base).from_single_file(str(folder / FILE), config=str(model.folder),
                                             local_files_only=True, torch_dtype=model.dtype, **absent)
        # Modules only: the file holds no scheduler and no tokenizer.
        modules = {name: part for name, part in loaded.components.items() if isinstance(part, torch.nn.Module)}
        for name, part in modules.items():
            part.to(model.weights.load_device(name)).requires_grad_(False).eval()
        model.replace_components(modules)
        # Compared in the file's own layout: diffusers maps the names, and a gap in its map would go unnoticed.
        held, written = model.single_file_state_dict(), load_file(folder / FILE)
        rounded = {name: tensor.to(model.dtype).float() for name, tensor in written.items()
                   if name not in (V_PREDICTION_MARK, ZERO_SNR_MARK)}
        lost = [name for name in sorted(held.keys() | rounded.keys())
                if name not in held or name not in rounded or not torch.equal(held[name], rounded[name])]
        if lost:
            raise StageFailed(f"single_file: `from_single_file` ignored or changed {len(lost)} tensors, such as "
                              f"{lost[0]}", fix="leave this format out of `export`")
