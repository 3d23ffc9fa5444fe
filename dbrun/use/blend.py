"""How do several adapters, each by its weight, get into one base and out again, without loading it anew?

Each is read by its own format's library; what is kept of it is the weights that it leaves. A blend of them is the
base's weights plus the sum of the weighted changes, so every type can stand beside every other; new words that lie
beside them come along. Taken out, the base is what it was to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbrun.models.base import Model
from dbrun.use.adapter_files import AdapterFile
from dbrun.use.trigger_words import TriggerWords

if TYPE_CHECKING:
    from torch import Tensor


class Blend:
    """A base in memory, and what stands in it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.words = TriggerWords(model)
        self._original: dict[tuple[str, str], Tensor] = {}

    def apply(self, adapters: Sequence[AdapterFile]) -> None:
        """Let the base be itself and these adapters, whatever stood in it before. Raises RecipeError."""
        import torch

        changes = self.changed_weights(adapters)
        with torch.no_grad():
            for place, new in changes.items():
                self._original[place] = self._weight(place).clone()
                self._weight(place).copy_(new)
        # last in and first out: a word makes the text encoder's table longer
        self.words.apply(adapters)

    def changed_weights(self, adapters: Sequence[AdapterFile]) -> dict[tuple[str, str], Tensor]:
        """(component, name of a weight) -> what it is with these adapters in it; the base is itself afterwards."""
        self.restore()
        changes: dict[tuple[str, str], Tensor] = {}
        for adapter in adapters:
            with adapter.linked_folder(self.model.family) as (folder, components):
                for component, name, new in adapter.form.changed_weights(folder, self.model, components):
                    place = (component, name)
                    now = self._weight(place)
                    if len(adapters) == 1 and adapter.weight == 1:
                        changes[place] = new
                        continue
                    change = adapter.weight * (new.float() - now.float())
                    changes[place] = changes[place] + change if place in changes else now.float() + change
        return changes

    def restore(self) -> None:
        """Let the base be itself."""
        import torch

        self.words.restore()
        with torch.no_grad():
            for place, first in self._original.items():
                self._weight(place).copy_(first)
        self._original = {}

    def weight_differences(self, adapters: Sequence[AdapterFile]) -> dict[tuple[str, str], Tensor]:
        """(component, name of a weight) -> what these adapters add to it, float32."""
        return {place: new.float() - self._weight(place).float()
                for place, new in self.changed_weights(adapters).items()}

    def _weight(self, place: tuple[str, str]) -> Tensor:
        component, name = place
        return self.model.module(component).get_parameter(name).data
