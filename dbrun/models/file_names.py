"""Names that a family's layers, and the family itself, have in the files of other programs and of earlier libraries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

PROMPT_PLACEHOLDER = "PROMPT"
"""Stands for a prompt, as Python source, in `card_lines` and `card_arguments`."""


class PublishedNames(NamedTuple):
    """What other programs call a base of this architecture, in the metadata of files that belong to it.

    architecture: of Stability's `modelspec`, such as `stable-diffusion-v1`; kohya: of its trainers, such as `sd_v1`;
    is_v2: whether it is a Stable Diffusion 2.x; prediction: `epsilon` or `v`.
    """

    architecture: str
    kohya: str
    is_v2: bool
    prediction: str


class JoinedLayer(NamedTuple):
    """Layer of the original release that computes the outputs of several layers of a base.

    parts: full names of those, in the order of their outputs; halves_swapped: whether the two halves of the outputs
    stand in the other order.
    """

    parts: tuple[str, ...]
    halves_swapped: bool = False


class FileNames:
    """The part of a `Family` that says how its layers are called in files."""

    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]]
    """Component → (prefix of its layers' names on the module, prefix in a file for the pipeline's
    `load_lora_weights`). A component that `load_lora_weights` ignores is left out."""
    diffusers_marks: ClassVar[tuple[str, ...]] = ("lora",)
    """Words, one of which must stand in each name of such a file: its reader refuses adapters of other types."""
    kohya_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Component → (prefix on the module, prefix in kohya's files, which have `_` for `.`); only what readers know."""
    other_kohya_prefixes: ClassVar[Mapping[str, str]] = {}
    """Prefix in such files of some trainers → that of `kohya_prefixes`, where they use another family's."""
    kohya_names: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Component → layer → its name behind the prefix in such a file, where it is another than by that rule."""
    kohya_original_components: ClassVar[tuple[str, ...]] = ()
    """Components whose layers have the names of the original release there, see `original_layer_names`."""
    kohya_joined_components: ClassVar[tuple[str, ...]] = ()
    """Components whose layers are joined there as in the original release, see `joined_layers`."""
    older_prefixes: ClassVar[Mapping[str, str]] = {}
    """Component in model_index.json → prefix of its layers' names in earlier versions of its library."""
    no_kohya_reason: ClassVar[str | None] = None
    """Why no file with kohya's names is written for it, a clause that follows the format's name; None for the usual."""
    comfyui_usage: ClassVar[str | None] = None
    """Sentence of model cards on ComfyUI, for a family whose file of the format `diffusers` it reads."""
    card_lines: ClassVar[tuple[str, ...]] = ()
    """Python of model cards before the pipeline is called, where that cannot be given a prompt as it is."""
    card_arguments: ClassVar[str] = PROMPT_PLACEHOLDER
    """Arguments of the pipeline in model cards that say what is drawn."""
    comfyui_unread: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Component → patterns of its layers that ComfyUI ignores in the file of the format `diffusers`."""
    lycoris_misread: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Component → patterns of its layers that LyCORIS applies wrongly in sd-scripts."""
    embedding_keys: ClassVar[tuple[str, ...]] = ()
    """Name of each text encoder's vectors in a file of a new word; empty where the word itself is the name."""

    def original_layer_names(self, folder: Path, component: str, names: Iterable[str]) -> Mapping[str, str]:
        """Layer's name on a component's module -> its name in the original release; empty where files have none."""
        return {}

    def joined_layers(self, component: str, names: Collection[str]) -> Mapping[str, JoinedLayer]:
        """Layer's name in the original release -> its parts, for a component in `kohya_joined_components`.

        names: of the linear layers on its module.
        """
        return {}

    def joins_layers(self, component: str) -> bool:
        """Whether kohya's files hold the layers of a component as the original release joins them.

        Such files are written only where a recipe names them: ComfyUI reads all of those of the format `diffusers`.
        """
        return component in self.kohya_joined_components

    def published_names(self, folder: Path) -> PublishedNames | None:
        """What other programs call the base in folder; None where they have no name for it. Without torch."""
        return None
