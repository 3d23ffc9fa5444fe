"""The kohya format: one `kohya.safetensors` with the names that kohya's trainers, ComfyUI and A1111 read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import matching_names
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.formats.diffusers import KOHYA_PREFIXES
from dbrun.formats.foreign_names import usual_names
from dbrun.formats.joined_layers import JoinedLayers
from dbrun.formats.lycoris_apply import apply_to_bias, apply_to_weight, layer_scale, layer_type, layer_types
from dbrun.formats.passed_over import MERGED_INSTEAD
from dbrun.input_file import file_exists, folder_exists
from dbrun.models.base import Family, Model
from dbrun.safetensors_header import read_header, read_records

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dbrun.adapters.import_adapter import ImportedAdapter

FILE = "kohya.safetensors"
NAME_PLACEHOLDER = "%RUN-NAME%"
"""Stands for the run's name in a stored model card."""
COMMON_PEFT_NAMES = {"dora_scale": "lora_magnitude_vector"}
"""LyCORIS' names that layers of every type can have -> peft's names."""


IN_BLOCKS = re.compile(r"(down_blocks|mid_block|up_blocks)\.")
"""Beginning of the names of the UNet's layers that kohya's trainers adapt."""
IN_TRANSFORMER_BLOCKS = re.compile(r"(single_)?transformer_blocks\.")
"""The same of a transformer's."""
IN_TEXT_BLOCKS = re.compile(r"(text_model\.)?encoder\.layers\.")
"""The same of a text encoder's."""


class KohyaFormat(Format):
    """LoRA with its own alpha, DoRA, LoHa and LoKr; a layer's name in the file has `_` for every `.`."""

    NAME: ClassVar[str] = "kohya"
    SUMMARY: ClassVar[str] = "one file for ComfyUI and A1111"
    WEIGHT_HINT: ClassVar[str | None] = (
        f"in A1111 `<lora:{NAME_PLACEHOLDER}:0.8>`, in ComfyUI `strength_model` of the node")
    LOADS_IN: ClassVar[str] = "ComfyUI, Forge and A1111; diffusers where all of it is LoRA"
    TRANSFORMER_LOADS_IN: ClassVar[str | None] = "ComfyUI and Forge; diffusers where all of it is LoRA"
    POSITION: ClassVar[int] = 30
    ADDS_TO_WEIGHTS: ClassVar[bool] = True
    FILE_DESCRIPTION: ClassVar[str | None] = "a file with kohya's names"

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Clause for types without LyCORIS names, and for components of bases that no other program reads."""
        if adapter.lycoris_layer is None:
            why = ""
            if adapter.no_lycoris_reason:
                why = f", {adapter.no_lycoris_reason}"
            return f"which has no names for what `adapt.{component}` is: {adapter.NAME}{why}"
        if family.joins_layers(component) and (not adapter.supports_lora or adapter.beyond_lora):
            return f"which joins layers of the {component}, and of all types only LoRA can be joined"
        if component not in family.kohya_prefixes:
            if family.no_kohya_reason:
                return family.no_kohya_reason
            return f"which no other program reads for the {component} of `base.type: {family.NAME}`"
        return None

    def compatibility_warning(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Sentence on what ComfyUI and A1111 compute differently than LyCORIS, and what to do; None if all agree."""
        if not adapter.lycoris_caveat or component not in family.kohya_prefixes:
            return None
        # A merged difference of weights has no formula left to disagree on, so it is right in all three programs.
        return f"{adapter.lycoris_caveat}; {MERGED_INSTEAD}"

    def is_usual(self, family: Family) -> bool:
        """False where it joins layers: the file of `diffusers` is smaller, and ComfyUI reads all of it."""
        return not family.joins_layers(next(iter(family.components)))

    def passed_over(self, family: Family, component: str, adapter: Adapter, layers: Sequence[str]) -> tuple[str, ...]:
        """Layers outside the blocks, such as `time_embedding`, which kohya's trainers adapt nowhere; LyCORIS' types."""
        misread = [f"LyCORIS in sd-scripts applies `{name}` wrongly"
                   for name in matching_names(layers, family.lycoris_misread.get(component, ()))]
        if not adapter.supports_lora:
            return (f"`networks.lora` of sd-scripts ignores all {len(layers)} layers of the {component}, and its "
                    "users take `lycoris.kohya`", *misread)
        programs, blocks = "A1111 and sd-scripts ignore", IN_TEXT_BLOCKS
        if component == next(iter(family.components)):
            programs, blocks = "sd-scripts and diffusers 0.35 ignore", IN_BLOCKS
        if component in family.kohya_original_components:
            # diffusers 0.35 refuses a file with such a layer's original name
            programs = "sd-scripts ignores"
        if family.joins_layers(component):
            # diffusers 0.42 names them without `transformer.`, and then takes only names that begin so
            programs, blocks = "sd-scripts and diffusers ignore", IN_TRANSFORMER_BLOCKS
        outside = [name for name in layers if not blocks.match(name)]
        if not outside:
            return ()
        return (f"{programs} {len(outside)} of {len(layers)} layers of the {component}, such as "
                f"`{outside[0]}`", *misread)

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """A safetensors file with kohya's names, or that file in the folder of a run."""
        file = place
        if folder_exists(place):
            file = _file_in_folder(place)
        if file.suffix != ".safetensors" or not file_exists(file):
            return None
        # One is enough: a trainer may have added tensors of its own.
        if not any(name.startswith(KOHYA_PREFIXES) for name in read_header(file).tensors):
            return None
        return (file,)

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """Type of the component's layers; several types are joined by " and "."""
        if not family.kohya_prefixes:
            raise RecipeError(
                f"{files[0]} has kohya's names, which dbrun does not read for a base of type {family.NAME}",
                fix="take this adapter as a file for diffusers, whose layers begin with `transformer.`")
        names = usual_names(read_header(files[0]).tensors, family).values()
        prefix = self.weight_prefix(family, component)
        kinds = {layer_type(frozenset(ends), layer) for layer, ends in _group_by_layer(names).items()
                 if layer.startswith(prefix)}
        if not kinds:
            shown = sorted({"_".join(name.split("_")[:2]) + "_…" for name in names})
            raise RecipeError(f"{files[0]} holds no weights of the {component}, which begin with `{prefix}`; it holds "
                              f"{', '.join(shown[:3])}",
                              fix="name another file")
        return " and ".join(sorted(kinds))

    def weight_prefix(self, family: Family, component: str) -> str:
        """The component's prefix in kohya's files, such as `lora_unet_`."""
        # "-" begins no layer's name: a component that kohya has no prefix for has no layers in the file.
        return family.kohya_prefixes.get(component, ("", "-"))[1]

    def usage(self, family: Family) -> str | None:
        """Instructions for ComfyUI, Forge and A1111."""
        if family.joins_layers(next(iter(family.components))):
            return (f"In ComfyUI: put `{FILE}` into `models/loras/`, and choose it in a node `Load LoRA` behind the "
                    "one that loads the base. In Forge: put it into `models/Lora/`, and write "
                    f"`<lora:{NAME_PLACEHOLDER}:1>` into the prompt.")
        return (f"In ComfyUI: put `{FILE}` into `models/loras/`, and choose it in a node `Load LoRA` between "
                "checkpoint and sampler. In A1111 and Forge: put it into `models/Lora/`, and write "
                f"`<lora:{NAME_PLACEHOLDER}:1>` into the prompt.")

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """The one file, which holds all components."""
        return (FILE,)

    def import_adapter(self, folder: Path, model: Model, component: str) -> ImportedAdapter:
        """Read the component's layers by peft's names; the kernel of a CP-decomposed LoRA is multiplied in.

        Raises RecipeError if its layers are of several types, which no single adapter is, or if peft lacks the type.
        """
        from dbrun.adapters.import_adapter import ImportedAdapter

        kinds: set[str] = set()
        state: dict[str, Tensor] = {}
        scales: dict[str, float] = {}
        for name, layer in _read_layers(folder / FILE, model, component):
            kind = layer_type(frozenset(layer), name)
            kinds.add(kind)
            scales[name] = layer_scale(layer, kind)
            # [1, in …]: magnitudes of inputs, which LyCORIS can train; peft has those of outputs only.
            if "dora_scale" in layer and layer["dora_scale"].shape[0] == 1:
                raise RecipeError(f"it is a DoRA that scales the inputs of the {component}'s layers, and peft scales "
                                  "outputs",
                                  fix="use the file as it is: `dbrun sample` and ComfyUI take it")
            lycoris_layer = layer_types()[kind]
            peft_names = {**COMMON_PEFT_NAMES, **lycoris_layer.peft_names}
            for end, tensor in lycoris_layer.without_unknown(layer).items():
                # peft has no tensor for alpha: it is in `scales`.
                if end != "alpha":
                    state[f"{name}.{peft_names.get(end, end)}"] = _to_peft_shape(end, tensor)
        if len(kinds) > 1:
            raise RecipeError(f"its layers on the {component} are of several types: {', '.join(sorted(kinds))}",
                              fix="use the file as it is: `dbrun sample` and ComfyUI take it")
        return ImportedAdapter(_peft_config(kinds.pop(), state), state, scales)

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """Empty: readers add the update to the base's weights, so no adapter weight is left to compare."""
        return {}

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write one file for all components; returns it."""
        from safetensors.torch import save_file

        tensors = {}
        for component, attached in adapters.items():
            layers = attached.adapter.to_lycoris(attached.modules, attached.state)
            if family.joins_layers(component):
                layers = JoinedLayers.of(bare(), component).join_loras(layers)
                names = {name: name for name in layers}
            else:
                names = file_names(family, component, layers, bare)
            for name, layer in layers.items():
                for end, tensor in layer.items():
                    tensors[f"{names[name]}.{end}"] = tensor.contiguous()
        save_file(tensors, folder / FILE, metadata={"format": "pt"})
        return (folder / FILE,)

    def changed_weights(self, folder: Path, model: Model,
                        components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """Yield changed weights [out, in …] by LyCORIS' formulas, float32, as in the base class.

        Raises RecipeError if a name has no layer in the base, or a layer of another size.
        """
        for component in components:
            module = model.module(component)
            for name, layer in _read_layers(folder / FILE, model, component):
                for end, new in _updated_weights(module.get_submodule(name), layer, name).items():
                    yield component, f"{name}.{end}", new

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Let each layer compute with the weights that it has in ComfyUI and A1111.

        What `changed_weights` raises is raised here or as the layer computes.
        """
        from dbrun.formats.layer_updates import update_while_computing

        for component in components:
            module = model.module(component)
            for name, layer in _read_layers(folder / FILE, model, component):
                owner = module.get_submodule(name)
                update_while_computing(module, owner, partial(_updated_weights, owner, layer, name))


def _updated_weights(owner: nn.Module, layer: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights of a layer by LyCORIS' formulas, float32: `weight` [out, in …], and `bias` [out] where it changes.

    layer: the file's tensors for it; name: the layer's, for errors.
    """
    own = dict(owner.named_parameters())
    # in float32 also on a base in 16 bits, where the update would be rounded away
    weight = own["weight"].detach().float()
    updated = {"weight": apply_to_weight(weight, layer, layer_type(frozenset(layer), name), name)}
    bias = apply_to_bias(own.get("bias"), layer, name)
    if bias is not None:
        updated["bias"] = bias
    return updated


def _file_in_folder(folder: Path) -> Path:
    """The kohya file of a folder: under its own name, or under the run's, with which it is delivered."""
    for record in read_records([folder]):
        with suppress(KeyError, TypeError):
            named = folder / f"{record['recipe']['name']}.safetensors"
            # Only what was delivered: the user may have a file of this name, of another kind.
            if named.name in record["files"] and FILE not in record["files"]:
                return named
    return folder / FILE


def _peft_config(kind: str, state: Mapping[str, Tensor]) -> dict[str, object]:
    """Settings of peft's config for this type, as far as the weights (by peft's names) tell them."""
    lycoris_layer = layer_types()[kind]
    config: dict[str, object] = {"peft_type": kind.upper()}
    # The first of the tensors with a rank: its rank is the `r` of peft's config.
    ends = tuple(lycoris_layer.peft_names.get(name, name) for name in lycoris_layer.rank_names[:1])
    ranks = [tensor.shape[0] for name, tensor in state.items() if name.endswith(ends)]
    if ranks:
        config["r"] = max(ranks)
    if lycoris_layer.peft_has_dora:
        config["use_dora"] = any(name.endswith("magnitude_vector") for name in state)
    return config


def file_names(family: Family, component: str, layers: Iterable[str],
               bare: Callable[[], Model]) -> dict[str, str]:
    """Layer's name on the module -> its name in the file, without the end that names one of its tensors.

    bare: opens the base; called only where names depend on its config.
    """
    prefix, file_prefix = family.kohya_prefixes[component]
    names = {name: file_prefix + name.removeprefix(prefix).replace(".", "_") for name in layers}
    if component in family.kohya_original_components:
        names |= _original_names(bare(), component, tuple(names))
    for name, other in family.kohya_names.get(component, {}).items():
        if name in names:
            names[name] = file_prefix + other
    return names


def _original_names(model: Model, component: str, layers: Iterable[str]) -> dict[str, str]:
    """Layer's name on the module -> the name in the file that is made of its original name."""
    _, file_prefix = model.family.kohya_prefixes[component]
    original = model.family.original_layer_names(model.folder, component, layers)
    return {name: file_prefix + other.replace(".", "_") for name, other in original.items()}


def _group_by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """Layer -> the ends of its tensors' names."""
    by_layer: dict[str, list[str]] = {}
    for name in names:
        # The first `.` ends the layer's name, which has `_` for its own.
        layer, _, end = name.partition(".")
        by_layer.setdefault(layer, []).append(end)
    return by_layer


def _read_layers(file: Path, model: Model,
                 component: str) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield (layer's name on the module, its tensors in float32). Raises RecipeError for a name without a layer."""
    from safetensors.torch import load_file

    stored = load_file(file)
    tensors = {usual: stored[name] for name, usual in usual_names(stored, model.family).items()}
    module = model.module(component)
    # From module to file, since `_` for `.` cannot be undone: module names contain `_` themselves.
    begin, prefix = model.family.kohya_prefixes[component]
    layers = tuple(_named_layers(module))
    module_names = {prefix + name.removeprefix(begin).replace(".", "_"): name for name in layers}
    # some programs keep to the rule also where a layer has a name of its own, and some write the original names
    for name, file_name in _original_names(model, component, layers).items():
        module_names[file_name] = name
    for name, file_name in file_names(model.family, component, layers, lambda: model).items():
        module_names[file_name] = name
    other_prefixes = tuple(prefix for other, (_, prefix) in model.family.kohya_prefixes.items() if other != component)
    by_layer, joined = _group_by_layer(tensors), JoinedLayers.of(model, component)
    known = module_names.keys() | joined.by_name.keys()
    unknown = [layer for layer in by_layer if layer not in known and not layer.startswith(other_prefixes)]
    if unknown:
        raise RecipeError(f"{len(unknown)} of its layers are not in the base's {component}, such as "
                          f"{unknown[0]}", fix="name an adapter that was trained on this base")
    for layer, ends in by_layer.items():
        if layer not in known:
            continue
        # Raises for an incomplete layer before a caller changes a weight by it.
        layer_type(frozenset(ends), layer)
        own = {end: tensors[f"{layer}.{end}"].float() for end in ends}
        if layer in joined.by_name:
            yield from joined.split(layer, own).items()
        else:
            yield module_names[layer], own


def _named_layers(module: nn.Module) -> Iterator[str]:
    """Names of the layers that files of this format can change."""
    from torch import nn

    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    return (name for name, layer in module.named_modules() if isinstance(layer, kinds))


def _to_peft_shape(end: str, tensor: Tensor) -> Tensor:
    """DoRA's magnitudes in peft's shape: [out] on a linear layer, [1, out, 1, 1] on a convolution."""
    if end != "dora_scale":
        return tensor
    if tensor.dim() == 2:
        return tensor.flatten()
    return tensor.reshape(1, -1, 1, 1)
