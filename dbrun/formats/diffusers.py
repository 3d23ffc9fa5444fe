"""The diffusers format: one `pytorch_lora_weights.safetensors` that `pipeline.load_lora_weights` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import matching_names
from dbrun.adapters.base import Adapter, adapter_types
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.formats.lycoris_apply import layer_types
from dbrun.input_file import file_exists, folder_exists
from dbrun.models.base import Family, Model, families
from dbrun.models.ldm_layouts import is_whole_base
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from dbrun.adapters.import_adapter import ImportedAdapter

FILE = "pytorch_lora_weights.safetensors"
CONFIG_ENTRY = "lora_adapter_metadata"
"""Entry of the file's metadata from which diffusers takes fields of peft's configs, as JSON."""
KOHYA_PREFIXES = ("lora_", "lycoris_")
"""Prefixes of weight names in kohya's naming."""
TOKEN_PREFIX = "<"
"""First character of a tensor name that is a new word, such as `<sks>`."""
OLDEST_NAME = re.compile(r"(down_blocks|mid_block|up_blocks)\..*\.processor\.")
"""Beginning of a tensor's name in diffusers' oldest form, of the UNet's attention alone."""

COMFYUI_PREFIX = "diffusion_model."
"""Beginning of the names of a transformer's layers in ComfyUI and ai-toolkit; diffusers' readers know it."""

JOINED_LAYER = re.compile(r"\.(double_blocks|single_blocks)\.|\.qkv\.")
"""Part of such a name that stands for several layers of diffusers."""


def encoder_keys() -> frozenset[str]:
    """Names of tensors that are the vectors of a new word, for bases with several text encoders."""
    keys: set[str] = set()
    for family in families().values():
        keys.update(family.embedding_keys)
    return frozenset(keys)


class DiffusersFormat(Format):
    """LoRA weights of scale 1 under the family's prefixes, or LoKr's factors; one file in the folder itself.

    alpha / rank is multiplied into B, so that every reader gets the scale right: an older diffusers ignores metadata,
    and a reader whose LoraConfig lacks one of our fields falls back to alpha = rank, a scale of 1.
    """

    NAME: ClassVar[str] = "diffusers"
    SUMMARY: ClassVar[str] = "one file: LoRA, on some bases also LoKr"
    WEIGHT_HINT: ClassVar[str | None] = "in diffusers `pipeline.set_adapters(pipeline.get_active_adapters(), 0.8)`"
    LOADS_IN: ClassVar[str] = "diffusers (`load_lora_weights`); ComfyUI and Forge without the attention of the UNet"
    TRANSFORMER_LOADS_IN: ClassVar[str | None] = "diffusers (`load_lora_weights`) and ComfyUI"
    POSITION: ClassVar[int] = 10
    FILE_DESCRIPTION: ClassVar[str | None] = f"a {FILE}"

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Clause for types and components that the pipeline's reader ignores: most readers know LoRA alone."""
        if adapter.diffusers_mark not in family.diffusers_marks:
            return f"which carries {_titles(family)} only, and `adapt.{component}` is of type {adapter.NAME}"
        if component not in family.diffusers_prefixes:
            return f"whose `load_lora_weights` takes no {component} on `base.type: {family.NAME}`"
        return None

    def passed_over(self, family: Family, component: str, adapter: Adapter, layers: Sequence[str]) -> tuple[str, ...]:
        """What ComfyUI does not know by these names, such as a UNet's attention, and everything in A1111."""
        has_older_readers = component in family.kohya_prefixes and family.comfyui_usage is None
        if not has_older_readers and family.comfyui_usage is None:
            # no other program reads adapters of this family at all
            return ()
        programs, verb = ("ComfyUI and Forge", "ignore") if has_older_readers else ("ComfyUI", "ignores")
        clauses: list[str] = []
        unread = matching_names(layers, family.comfyui_unread.get(component, ()))
        if unread:
            clauses.append(f"{programs} {verb} {len(unread)} of {len(layers)} layers of the {component}, such as "
                           f"`{unread[0]}`")
        if adapter.beyond_lora:
            clauses.append(f"{programs} {verb} {adapter.beyond_lora} on the {component}")
        if has_older_readers:
            clauses.append(f"A1111 ignores all {len(layers)} layers of the {component}")
        return tuple(clauses)

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """A safetensors file, or the file with the usual name in a folder."""
        file = place
        if folder_exists(place):
            file = place / FILE
        if file.suffix != ".safetensors" or not file_exists(file):
            return None
        # Told apart by what it is not: diffusers has no prefix that all its files share.
        other_formats = (*KOHYA_PREFIXES, TOKEN_PREFIX)
        names = read_header(file).tensors
        words = encoder_keys() | {"emb_params"}
        if any(name.startswith(other_formats) for name in names) or not words.isdisjoint(names):
            return None
        if is_whole_base(names):
            return None
        return (file,)

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """`lora` or `lokr`. Raises RecipeError if the file holds nothing or something else for the component."""
        file = files[0]
        names = [_usual_name(name) for name in read_header(file).tensors]
        joined = [name for name in names if name.startswith(COMFYUI_PREFIX)]
        if joined:
            raise RecipeError(f"{file} holds layers that are several of the base, such as {joined[0]}",
                              fix="use it in ComfyUI, or take the same adapter as a file for diffusers")
        prefix = self.weight_prefix(family, component)
        own = sorted(name for name in names if name.startswith(prefix))
        if not own:
            parts = ", ".join(sorted({name.partition(".")[0] for name in names})) or "nothing"
            raise RecipeError(f"{file} holds no weights of `{prefix.rstrip('.')}`, the {component}; it holds {parts}",
                              fix="name another file")
        types = _carried_types(family)
        held: list[str] = []
        for name in own:
            mark = next((mark for mark in types if mark in name), None)
            if mark is None:
                raise RecipeError(f"{file} holds other weights than those of {_titles(family)}, such as {name}",
                                  fix=f"name {self.FILE_DESCRIPTION}")
            if types[mark].NAME not in held:
                held.append(types[mark].NAME)
        if len(held) > 1:
            raise RecipeError(f"{file} holds {' and '.join(held)} for the {component}, and diffusers reads one type",
                              fix="name a file with one of them")
        return held[0]

    def loading_lines(self, family: Family, recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """`load_lora_weights`."""
        return (f'pipeline.load_lora_weights(folder, weight_name="{FILE}")',)

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """The one file, which holds all components."""
        return (FILE,)

    def import_adapter(self, folder: Path, model: Model, component: str) -> ImportedAdapter:
        """Read the adapter through `load_lora_weights`; errors as in the base class."""
        from dbrun.formats.peft_import import import_through_peft

        prefix = self.weight_prefix(model.family, component)
        return import_through_peft(self, folder, prefix, model, component, _usual_name)

    def weight_prefix(self, family: Family, component: str) -> str:
        """The component's name in the pipeline, with a dot, such as `unet.`."""
        return f"{family.components[component]}."

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """The adapter as LoRA, A [r, in …] and B [out, r …], or as LoKr's factors, with the scale in one of them."""
        return attached.adapter.to_diffusers(attached.state)

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write one file for all components; returns it."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        config: dict[str, object] = {}
        for component, attached in adapters.items():
            prefix, file_prefix = family.diffusers_prefixes[component]
            for name, tensor in self.expected_weights(attached).items():
                file_name = file_prefix + _full_parameter_name(name.removeprefix(prefix))
                tensors[file_name] = tensor.contiguous()
            own = attached.adapter.diffusers_config(attached.modules)
            config |= {self.weight_prefix(family, component) + field: value for field, value in own.items()}
        metadata = {"format": "pt"}
        if config:
            metadata[CONFIG_ENTRY] = json.dumps(config, sort_keys=True)
        save_file(tensors, folder / FILE, metadata=metadata)
        return (folder / FILE,)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Load the file with `load_lora_weights`."""
        header = read_header(folder / FILE)
        names = [_usual_name(name) for name in header.tensors]
        # only what the file is for: the rest of a large base need not be in memory; diffusers asks for the denoiser
        # even where the file holds nothing for it
        denoiser, *others = model.family.components.values()
        in_file = {name.partition(".")[0] for name in names}
        held = [part for part in others if part in in_file]
        pipeline = model.pipeline_with(denoiser, *held)
        with _readable_file(folder / FILE) as file:
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name)


def _titles(family: Family) -> str:
    """The types that the pipeline's reader knows, such as `LoRA and LoKr`."""
    titles = layer_types()
    return " and ".join(titles[kind.NAME].title for kind in _carried_types(family).values())


def _carried_types(family: Family) -> dict[str, type[Adapter]]:
    """Mark in a weight's name → the adapter type with it, for the types that the pipeline's reader knows."""
    by_mark = {kind.diffusers_mark: kind for kind in adapter_types()}
    return {mark: by_mark[mark] for mark in family.diffusers_marks}


@contextmanager
def _readable_file(file: Path) -> Iterator[Path]:
    """Context manager: the file, or a copy for this time in which the names are those that diffusers reads."""
    from safetensors.torch import load_file, save_file

    header = read_header(file)
    renamed = {name: _readable_name(name) for name in header.tensors}
    if all(name == new for name, new in renamed.items()):
        yield file
        return
    tensors = load_file(file)
    with TemporaryDirectory(prefix="dbrun-") as folder:
        copy = Path(folder) / FILE
        # with its metadata, where newer files have their alpha
        save_file({new: tensors[name] for name, new in renamed.items()}, copy, metadata=dict(header.metadata))
        yield copy


def _readable_name(name: str) -> str:
    """The name by which diffusers reads a tensor: it adds nothing to the first form, and passes over a short name."""
    if OLDEST_NAME.match(name):
        return _usual_name(name)
    return _full_parameter_name(name)


def _usual_name(name: str) -> str:
    """A tensor's name with the component before it: the first version of diffusers' LoRAs left it out.

    ComfyUI and ai-toolkit have a name of their own for the transformer.
    """
    if OLDEST_NAME.match(name):
        return f"unet.{name}"
    if name.startswith(COMFYUI_PREFIX) and not JOINED_LAYER.search(name):
        return f"transformer.{name.removeprefix(COMFYUI_PREFIX)}"
    return name


def _full_parameter_name(name: str) -> str:
    """A weight's name in the file: that of DoRA's magnitudes is completed to the parameter's full name."""
    # transformers ignores the short name, which peft's state dict has; peft reads both.
    if name.endswith(".lora_magnitude_vector"):
        return f"{name}.weight"
    return name
