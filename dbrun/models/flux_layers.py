"""Layers of FLUX.1 by the names of its release, which joins layers that diffusers holds apart."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from dbrun.models.file_names import JoinedLayer

# black-forest-labs/flux, src/flux/modules/layers.py: a layer's outputs stand in this order
DOUBLE_BLOCK: Mapping[str, tuple[str, ...]] = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"), "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",), "img_mlp.2": ("ff.net.2",), "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",), "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",)}
"""Layer of a block that reads text and picture apart → the layers of diffusers that it joins."""
SINGLE_BLOCK: Mapping[str, tuple[str, ...]] = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",)}
"""The same of a block that reads them together."""
AROUND_BLOCKS: Mapping[str, str] = {
    "img_in": "x_embedder", "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out"}
"""Layer outside of the blocks → that of diffusers."""
SHIFT_FIRST = {"final_layer.adaLN_modulation.1": "norm_out.linear"}
"""The one whose outputs are a shift and a scale here, and a scale and a shift in diffusers."""
BLOCK = re.compile(r"(single_)?transformer_blocks\.(\d+)\.")


def joined_layers(names: Collection[str]) -> Mapping[str, JoinedLayer]:
    """Layer's name in the release -> its parts, for those of the transformer's layers (their names) that it has."""
    found: dict[str, JoinedLayer] = {}
    blocks = [BLOCK.match(name) for name in names]
    for begin, single, number in sorted({match.group(0, 1, 2) for match in blocks if match}, key=str):
        kind, layers = "double_blocks", DOUBLE_BLOCK
        if single:
            kind, layers = "single_blocks", SINGLE_BLOCK
        for name, parts in layers.items():
            found[f"{kind}.{number}.{name}"] = JoinedLayer(tuple(begin + part for part in parts))
    found |= {name: JoinedLayer((part,)) for name, part in AROUND_BLOCKS.items()}
    found |= {name: JoinedLayer((part,), halves_swapped=True) for name, part in SHIFT_FIRST.items()}
    there = set(names)
    return {name: joined for name, joined in found.items() if there.issuperset(joined.parts)}
