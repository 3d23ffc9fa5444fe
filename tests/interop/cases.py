"""Adapters far from their start, and the files of every format that carries them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adapter_kinds import make, moved
from published_layouts import PublishedLayout

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import attach, match_layers, read_weights
from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.formats.weight_diff import write_weight_diff
from dbrun.models.base import Model
from dbrun.models.ldm_layouts import PUBLISHED

PRESETS = ("attention", "linear", "all")
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 2.0}, "rslora": {}, "dora": {}, "loha": {"rank": 2, "alpha": 3.0},
    "lokr": {"rank": 2, "alpha": 3.0}, "pissa": {}, "full": {}}
"""Name of `adapter_kinds` -> settings that differ from it; alpha is not the rank."""
WHOLE = ("merged", "single_file")


@dataclass(frozen=True)
class Case:
    """One adapter on every component of a base. files: format -> file for a program, beside `merged/`.

    base, merged: the base and the merged weights as checkpoints of one file; folder: also holds `merged/`.
    """

    layout: PublishedLayout
    adapter: str
    preset: str
    folder: Path
    base: Path
    files: dict[str, Path]

    @property
    def merged(self) -> Path:
        """The merged weights as a checkpoint of one file."""
        return self.folder / "single_file.safetensors"


def load(layout: PublishedLayout, folder: Path) -> Model:
    """The base in folder."""
    return layout.family.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def write_checkpoint(layout: PublishedLayout, folder: Path, place: Path) -> Path:
    """The untouched base in folder as a checkpoint of one file in place."""
    place.mkdir(parents=True, exist_ok=True)
    form = formats()["single_file"]
    path, = form.write(place, layout.family, {}, lambda: load(layout, folder))
    return path


def learnt(layout: PublishedLayout, base: Path, name: str, preset: str) -> dict[str, ComponentAdapter]:
    """An adapter on each component, as if it had been trained."""
    adapter, model = make(name, **ADAPTERS[name]), load(layout, base)
    found: dict[str, ComponentAdapter] = {}
    for component in layout.family.components:
        found[component] = moved(_put(model, component, adapter, preset), by=0.1)
    return found


def _put(model: Model, component: str, adapter: Any, preset: str) -> ComponentAdapter:
    """The adapter on a component; full fine-tuning of everything in place of the preset `all`."""
    module = model.module(component)
    patterns = model.family.target_presets[component][preset]
    if not adapter.uses_peft and preset == "all":
        patterns = ("*",)
    modules = match_layers(module, patterns, adapter.layer_classes)
    attach(module, adapter, modules, seed=0)
    return ComponentAdapter(adapter.resolved_for(modules), modules, read_weights(module))


def cases(layout: PublishedLayout, base: Path, checkpoint: Path, work: Path,
          adapters: tuple[str, ...], presets: tuple[str, ...]) -> Iterator[Case]:
    """Yield every case; its folder is removed before the next."""
    for name in adapters:
        for preset in presets:
            if preset == "all" and make(name, **ADAPTERS[name]).linear_only_reason:
                # no recipe can have it
                continue
            folder = work / f"{name}-{preset}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            yield _write(layout, base, checkpoint, folder, name, preset)
            shutil.rmtree(folder)


def _write(layout: PublishedLayout, base: Path, checkpoint: Path, folder: Path, name: str, preset: str) -> Case:
    """Write every format that can carry the adapter, and the difference of weights where kohya's names cannot."""
    family, found = layout.family, learnt(layout, base, name, preset)
    files: dict[str, Path] = {}
    for form in formats().values():
        reasons = [form.unsupported_reason(family, c, attached.adapter) for c, attached in found.items()]
        if form.NAME in (*WHOLE, "kohya", "diffusers") and not any(reasons):
            written = form.write(folder, family, found, lambda: load(layout, base))
            files[form.NAME] = written[0] if len(written) == 1 else folder / form.NAME
    if name in ("dora", "full"):
        (folder / "difference").mkdir()
        # refused where weights have learnt that no other program has a name for, such as a text encoder's embeddings
        with suppress(RecipeError):
            files["kohya --how full"], = write_weight_diff(folder / "difference", load(layout, base),
                                                           _differences(layout, base, folder))
    return Case(layout, name, preset, folder, checkpoint, files)


def _differences(layout: PublishedLayout, base: Path, folder: Path) -> dict[tuple[str, str], torch.Tensor]:
    """(component, weight name) -> what the case changes of it, as `dbrun merge --how full` computes it."""
    before, after = load(layout, base), load(layout, folder / "merged")
    changed: dict[tuple[str, str], torch.Tensor] = {}
    for component in layout.family.components:
        old = before.module(component).state_dict()
        for name, new in after.module(component).state_dict().items():
            if not torch.equal(new, old[name]):
                changed[component, name] = new - old[name]
    return changed


def write_probes(layout: PublishedLayout, place: Path) -> dict[str, tuple[Path, list[str]]]:
    """Naming -> a LoRA on every layer of the published model under it, and the layers' names.

    Namings: `diffusers`, by the names of diffusers' modules, and `original`, by those of the release. alpha is the
    place in the list; the weights have as many axes as the layer's, all of length 1.
    """
    from safetensors.torch import save_file

    place.mkdir(parents=True, exist_ok=True)
    family, folder = layout.family, PUBLISHED / layout.folder
    names: dict[str, list[str]] = {"diffusers": [], "original": []}
    tensors: dict[str, dict[str, torch.Tensor]] = {naming: {} for naming in names}
    for component, part in family.components.items():
        axes = {name: module.weight.dim() for name, module in family.empty_component(folder, part).named_modules()
                if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))}
        begins, prefix = family.kohya_prefixes[component]
        original = family.original_layer_names(folder, component, tuple(axes))
        for name, dim in axes.items():
            layer_names = {"diffusers": name.removeprefix(begins), "original": original.get(name)}
            for naming, layer in layer_names.items():
                if layer is not None:
                    full = prefix + layer.replace(".", "_")
                    tensors[naming] |= _probe_layer(full, dim, len(names[naming]))
                    names[naming].append(full)
    files = {}
    for naming in names:
        file = place / f"{naming}.safetensors"
        save_file(tensors[naming], file)
        files[naming] = (file, names[naming])
    return files


def _probe_layer(name: str, dim: int, alpha: int) -> dict[str, torch.Tensor]:
    """A LoRA of rank 1 that does nothing."""
    sides = {f"{name}.lora_{side}.weight": torch.zeros((1,) * dim) for side in ("down", "up")}
    return sides | {f"{name}.alpha": torch.tensor(float(alpha))}
