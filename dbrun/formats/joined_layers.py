"""Layers that kohya's files join: several layers of the base, with their outputs one below the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from dbrun.adapters.lycoris_layer import LayerTensors
from dbrun.errors import RecipeError
from dbrun.models.base import Model
from dbrun.models.file_names import JoinedLayer

if TYPE_CHECKING:
    from torch import Tensor

UP, DOWN, ALPHA = "lora_up.weight", "lora_down.weight", "alpha"
PER_OUTPUT = frozenset({UP, "hada_w1_a", "hada_w2_a", "dora_scale", "diff", "diff_b"})
"""Tensors with a row for each output of the layer; its parts share the others."""
SHARED = frozenset({DOWN, "hada_w1_b", "hada_w2_b", ALPHA})


@dataclass(frozen=True)
class JoinedLayers:
    """The joined layers of a component.

    by_name: name in the file, without the end that names a tensor → the layers of the base that it joins; outputs: name
    of each linear layer of the base → number of its outputs.
    """

    by_name: Mapping[str, JoinedLayer]
    outputs: Mapping[str, int]

    @classmethod
    def of(cls, model: Model, component: str) -> Self:
        """Those of a base's component, without reading any weights; none for most families."""
        from torch import nn

        if not model.family.joins_layers(component):
            return cls({}, {})
        # by shapes alone: a quantised layer's weight has others
        modules = model.empty_module(component).named_modules()
        outputs = {name: module.out_features for name, module in modules if isinstance(module, nn.Linear)}
        _, prefix = model.family.kohya_prefixes[component]
        found = model.family.joined_layers(component, outputs)
        return cls({prefix + name.replace(".", "_"): joined for name, joined in found.items()}, outputs)

    def join_loras(self, layers: Mapping[str, LayerTensors]) -> dict[str, dict[str, Tensor]]:
        """Name in the file → one LoRA that does what those of all its parts do.

        layers: layer of the base → `lora_down` [r, in], `lora_up` [out, r] and `alpha`. For n adapted parts `lora_down`
        becomes [n r, in], and `lora_up` [outs, n r] is zero but for a block of each part. alpha is the rank: the scale
        is in `lora_up`, because diffusers reads no alpha for some layers. Raises RecipeError for a layer that has no
        name.
        """
        import torch

        self._check_named(layers)
        whole: dict[str, dict[str, Tensor]] = {}
        for file_name, joined in self.by_name.items():
            adapted = [part for part in joined.parts if part in layers]
            if not adapted:
                continue
            down = torch.cat([layers[part][DOWN] for part in adapted])
            rows, column = [], 0
            for part in joined.parts:
                up = down.new_zeros(self.outputs[part], len(down))
                if part in layers:
                    own = layers[part][UP]
                    rank = own.shape[1]
                    up[:, column:column + rank] = own * (layers[part][ALPHA] / rank)
                    column += rank
                rows.append(up)
            alpha = torch.tensor(float(len(down)))
            whole[file_name] = {DOWN: down, UP: _reordered(torch.cat(rows), joined), ALPHA: alpha}
        return whole

    def join_differences(self, differences: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Name in the file → the differences of all its parts; zeros for a part that does not change.

        differences: layer of the base → `diff` [out, in] and `diff_b` [out], where the layer has it. Raises RecipeError
        for a layer without a name.
        """
        import torch

        self._check_named(differences)
        whole: dict[str, dict[str, Tensor]] = {}
        for file_name, joined in self.by_name.items():
            examples: dict[str, Tensor] = {}
            for part in joined.parts:
                examples |= differences.get(part, {})
            for end, example in examples.items():
                rows = []
                for part in joined.parts:
                    unchanged = example.new_zeros(self.outputs[part], *example.shape[1:])
                    rows.append(differences.get(part, {}).get(end, unchanged))
                whole.setdefault(file_name, {})[end] = _reordered(torch.cat(rows), joined)
        return whole

    def _check_named(self, layers: Iterable[str]) -> None:
        named = {part for joined in self.by_name.values() for part in joined.parts}
        nameless = sorted(set(layers) - named)
        if nameless:
            raise RecipeError(f"`{nameless[0]}` changes, and other programs have no name for it",
                              fix="write another format: diffusers or peft")

    def split(self, name: str, layer: LayerTensors) -> dict[str, dict[str, Tensor]]:
        """Layer of the base → its share of a joined layer; a part that it does not change is left out.

        name: of the layer in the file. Raises RecipeError for a type that cannot be split, and for another size.
        """
        import torch

        joined = self.by_name[name]
        if len(joined.parts) == 1 and not joined.halves_swapped:
            return {joined.parts[0]: dict(layer)}
        sizes = [self.outputs[part] for part in joined.parts]
        other = sorted(layer.keys() - PER_OUTPUT - SHARED)
        if other:
            raise RecipeError(f"`{name}` stands for {len(sizes)} layers of the base, and its `{other[0]}` cannot be "
                              "split into theirs", fix="use the file in ComfyUI, or take a LoRA")
        shares: list[dict[str, Tensor]] = [{} for _ in joined.parts]
        for end, tensor in layer.items():
            pieces = [tensor] * len(sizes)
            if end in PER_OUTPUT:
                if tensor.shape[0] != sum(sizes):
                    raise RecipeError(f"`{name}` is of another size in the base",
                                      fix="name an adapter that was trained on this base")
                pieces = list(torch.split(_reordered(tensor, joined), sizes))
            for share, piece in zip(shares, pieces, strict=True):
                share[end] = piece
        split: dict[str, dict[str, Tensor]] = {}
        for part, share in zip(joined.parts, shares, strict=True):
            own = _own_ranks(share)
            if own:
                split[part] = own
        return split


def _own_ranks(layer: LayerTensors) -> dict[str, Tensor]:
    """A LoRA without the ranks that only other parts of its layer use; empty where none is left."""
    if UP not in layer or "dora_scale" in layer:
        return dict(layer)
    rank = layer[UP].shape[1]
    used = layer[UP].any(dim=0).nonzero().flatten()
    if not len(used):
        return {}
    smaller = {**layer, UP: layer[UP][:, used], DOWN: layer[DOWN][used]}
    if ALPHA in layer:
        smaller[ALPHA] = layer[ALPHA] * (len(used) / rank)
    return smaller


def _reordered(tensor: Tensor, joined: JoinedLayer) -> Tensor:
    """A tensor [outs, …] with the halves of its outputs in the other order, where the layer's are; its own inverse."""
    import torch

    if not joined.halves_swapped:
        return tensor
    first, second = tensor.chunk(2)
    return torch.cat([second, first])
