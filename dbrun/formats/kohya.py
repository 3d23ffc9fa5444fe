"""The kohya format: one `kohya.safetensors` under the names that kohya's trainers, ComfyUI and A1111 read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.formats.diffusers import KOHYA_PREFIXES
from dbrun.formats.lycoris_apply import apply_to_bias, apply_to_weight, layer_scale, layer_type, layer_types
from dbrun.models.base import Family, Model
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dbrun.adapters.import_adapter import ImportedAdapter

FILE = "kohya.safetensors"
COMMON_PEFT_NAMES = {"dora_scale": "lora_magnitude_vector"}
"""LyCORIS' names that a layer of any type can have -> peft's."""


class KohyaFormat(Format):
    """LoRA with its true alpha, DoRA, LoHa and LoKr, each layer under its name with `_` for every `.`."""

    NAME: ClassVar[str] = "kohya"
    SUMMARY: ClassVar[str] = "one file for ComfyUI and A1111"
    POSITION: ClassVar[int] = 30
    FILE_DESCRIPTION: ClassVar[str | None] = "a file with kohya's names"

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """What LyCORIS has no names for, and bases that none of its readers knows."""
        if adapter.lycoris_layer is None:
            why = f", {adapter.no_lycoris_reason}" if adapter.no_lycoris_reason else ""
            return f"which has no names for what `adapt.{component}` is: {adapter.NAME}{why}"
        if component not in family.kohya_prefixes:
            return f"which no other program reads for the {component} of `base.type: {family.NAME}`"
        return None

    def compatibility_warning(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """What ComfyUI and A1111 compute otherwise than LyCORIS; `dbrun merge --how full` is right in all three."""
        return adapter.lycoris_caveat and f"{adapter.lycoris_caveat}; `dbrun merge FILE -o OUT --how full` is for them"

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """A safetensors file whose names are kohya's, or a folder with one of the usual name."""
        file = place / FILE if place.is_dir() else place
        if file.suffix != ".safetensors" or not file.is_file():
            return None
        return (file,) if any(name.startswith(KOHYA_PREFIXES) for name in read_header(file).tensors) else None

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """The type of the component's layers; several where they are of several."""
        names = read_header(files[0]).tensors
        begins = family.kohya_prefixes.get(component, ("", "-"))[1]
        kinds = {layer_type(frozenset(parts), layer) for layer, parts in _group_by_layer(names).items()
                 if layer.startswith(begins)}
        if not kinds:
            shown = sorted({"_".join(name.split("_")[:2]) + "_…" for name in names})
            raise RecipeError(f"{files[0]} holds no weights of the {component}, which begin with `{begins}`; it holds "
                              f"{', '.join(shown[:3])}",
                              fix=f"take `adapt.{component}.init` away, or name another file")
        return " and ".join(sorted(kinds))

    def usage(self, family: Family, base: str) -> str | None:
        """Where ComfyUI and A1111 look."""
        return (f"In ComfyUI: put `{FILE}` into `models/loras/` under a name of your own, and choose it in a node "
                "`Load LoRA` between checkpoint and sampler. In A1111: put it into `models/Lora/`, and write "
                "`<lora:NAME:1>` into the prompt.")

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """The folder itself, for all components."""
        return (FILE,)

    def import_adapter(self, folder: Path, model: Model, component: str) -> ImportedAdapter:
        """By peft's names; a CP-decomposed LoRA with its inner kernel multiplied in, which peft does not know.

        Raises RecipeError where its layers are of several types, which no one adapter is, or of one that peft has not.
        """
        from dbrun.adapters.import_adapter import ImportedAdapter

        kinds: set[str] = set()
        state: dict[str, Tensor] = {}
        scales: dict[str, float] = {}
        for name, layer in _read_layers(folder / FILE, model, component):
            kind = layer_type(frozenset(layer), name)
            kinds.add(kind)
            scales[name] = layer_scale(layer, kind)
            if "dora_scale" in layer and layer["dora_scale"].shape[0] == 1:
                raise RecipeError(f"it is a DoRA with lengths of inputs on the {component}, and peft's are of outputs",
                                  fix="use the file as it is: `dbrun sample` and ComfyUI take it")
            peft_names = {**COMMON_PEFT_NAMES, **layer_types()[kind].peft_names}
            state |= {f"{name}.{peft_names.get(end, end)}": _to_peft_shape(end, tensor)
                      for end, tensor in layer_types()[kind].without_unknown(layer).items() if end != "alpha"}
        if len(kinds) > 1:
            raise RecipeError(f"its layers on the {component} are of several types: {', '.join(sorted(kinds))}",
                              fix="use the file as it is: `dbrun sample` and ComfyUI take it")
        return ImportedAdapter(_peft_config(kinds.pop(), state), state, scales)

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """None that would still have names: its readers put them into the base's weights."""
        return {}

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """One file for all components."""
        from safetensors.torch import save_file

        tensors = {f"{kohya_name(family, component, name)}.{end}": tensor.contiguous()
                   for component, attached in adapters.items()
                   for name, layer in attached.adapter.to_lycoris(attached.modules, attached.state).items()
                   for end, tensor in layer.items()}
        save_file(tensors, folder / FILE, metadata={"format": "pt"})
        return (folder / FILE,)

    def changed_weights(self, folder: Path, model: Model,
                        components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """By LyCORIS' formulas. Raises RecipeError where a name has no layer, or one of another size."""
        for component in components:
            module = model.module(component)
            for name, layer in _read_layers(folder / FILE, model, component):
                own, kind = dict(module.get_submodule(name).named_parameters()), layer_type(frozenset(layer), name)
                yield component, f"{name}.weight", apply_to_weight(own["weight"].detach().float(), layer, kind, name)
                if (bias := apply_to_bias(own.get("bias"), layer, name)) is not None:
                    yield component, f"{name}.bias", bias

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Into the base's weights, as ComfyUI and A1111 do it. Raises RecipeError where a name has no layer."""
        import torch

        with torch.no_grad():
            for component, name, new in self.changed_weights(folder, model, components):
                model.module(component).get_parameter(name).copy_(new)


def _peft_config(kind: str, state: Mapping[str, Tensor]) -> dict[str, object]:
    """What peft's config would say of an adapter of this type, as far as its weights, by peft's names, tell."""
    names = layer_types()[kind]
    config: dict[str, object] = {"peft_type": kind.upper()}
    # of several tensors with a rank it is the first one's that a config names
    ends = tuple(names.peft_names.get(name, name) for name in names.rank_names[:1])
    ranks = [tensor.shape[0] for name, tensor in state.items() if name.endswith(ends)]
    if ranks:
        config["r"] = max(ranks)
    if names.peft_has_dora:
        config["use_dora"] = any(name.endswith("magnitude_vector") for name in state)
    return config


def kohya_name(family: Family, component: str, name: str) -> str:
    """A layer's name in the file, without the end that says which tensor of it is meant."""
    begins, written = family.kohya_prefixes[component]
    return written + name.removeprefix(begins).replace(".", "_")


def _group_by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """The ends of tensors' names by their layers: `.` stands only behind a layer's name."""
    found: dict[str, list[str]] = {}
    for name in names:
        layer, _, end = name.partition(".")
        found.setdefault(layer, []).append(end)
    return found


def _read_layers(file: Path, model: Model,
                 component: str) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The component's layers by their names on its module. Raises RecipeError for a name that is no layer's."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    module = model.module(component)
    real = {kohya_name(model.family, component, name): name for name in _named_layers(module)}
    others = tuple(written for other, (_, written) in model.family.kohya_prefixes.items() if other != component)
    by_layer = _group_by_layer(tensors)
    strange = [layer for layer in by_layer if layer not in real and not layer.startswith(others)]
    if strange:
        raise RecipeError(f"{len(strange)} layers of {file.name} are none of the base's {component}, such as "
                          f"{strange[0]}", fix="name an adapter that was trained on this base")
    for layer, ends in by_layer.items():
        if layer in real:
            parts = {end: tensors[f"{layer}.{end}"].float() for end in ends}
            layer_type(frozenset(ends), layer)
            yield real[layer], parts


def _named_layers(module: nn.Module) -> Iterator[str]:
    """The names of the layers that there are names for."""
    from torch import nn

    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    return (name for name, layer in module.named_modules() if isinstance(layer, kinds))


def _to_peft_shape(end: str, tensor: Tensor) -> Tensor:
    """DoRA's lengths as peft shapes them: [out] of a linear layer, [1, out, 1, 1] of a convolution."""
    if end != "dora_scale":
        return tensor
    return tensor.flatten() if tensor.dim() == 2 else tensor.reshape(1, -1, 1, 1)
