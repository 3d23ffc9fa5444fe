"""A1111's own loader of adapters: `networks.load_networks`, then `network_apply_weights` on every layer.

Its models live in other repositories, so the layers here are bare ones with the checkpoint's own names, which are the
names of those models.
"""

from __future__ import annotations

import ast
import json
import sys
import tempfile
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from compare import Program, Weights
from safetensors.torch import load_file
from stubs import Stub, stub
from torch import nn

PREFIXES = {"sd15": {"cond_stage_model.": "cond_stage_model"},
            "sdxl": {"conditioner.embedders.0.": "0", "conditioner.embedders.1.": "1"}}
"""Layout -> prefix of a text encoder's tensors -> its name here."""
UNET = "model."


class Reader(Program):
    """One checkout of A1111."""

    def __init__(self, checkout: Path) -> None:
        super().__init__(checkout)
        stub("gradio")
        sys.path[:0] = [str(checkout / "extensions-builtin" / "Lora"), str(checkout)]
        self.shared = _stub_modules(checkout)
        import network
        import networks

        self.network, self.networks = network, networks
        networks.extra_network_lora = SimpleNamespace(errors={})

    def weights(self, layout: str, checkpoint: str, file: str | None = None) -> Weights:
        """As in the base class; tensors keep the checkpoint's names."""
        tensors = {name: tensor for name, tensor in load_file(checkpoint).items() if not name.startswith("first_stage")}
        if file is None:
            return tensors
        roots = self._build(layout, tensors)
        self._load(file)
        for module in self.shared.sd_model.network_layer_mapping.values():
            # by class: the output layer of an attention of torch is never called, the attention applies its weights
            if type(module) in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention):
                self.networks.network_apply_weights(module)
        found = {}
        for prefix, name in {**PREFIXES[layout], UNET: "model"}.items():
            found |= {prefix + key: tensor.detach() for key, tensor in roots[name].state_dict().items()}
        return found

    def shown(self, file: str) -> dict[str, Any]:
        """What A1111's page of adapters shows of a file, and under which kinds of base it lists it."""
        import ui_edit_user_metadata
        import ui_extra_networks_lora

        page = ui_extra_networks_lora.ExtraNetworksPageLora()
        entry = self.network.NetworkOnDisk("adapter", file)
        self.networks.available_networks["adapter"] = entry
        kinds = ("is_sd1", "is_sd2", "is_sdxl")
        listed = []
        for kind in kinds:
            self.shared.sd_model = SimpleNamespace(**{name: name == kind for name in kinds})
            if page.create_item("adapter") is not None:
                listed.append(kind.removeprefix("is_"))
        page.items = {"adapter": {"metadata": entry.metadata}}
        editor = ui_edit_user_metadata.LoraUserMetadataEditor(None, "txt2img", page)
        editor.page = page
        return {"name": entry.alias, "version": entry.sd_version.name, "listed under": listed,
                "table": editor.get_metadata_table("adapter"), "tags": ui_edit_user_metadata.build_tags(entry.metadata)}

    def taken(self, layout: str, shapes: dict[str, list[int]], file: str, text: list[dict[str, Any]]) -> list[float]:
        """Alpha of each layer of a file that is read, on a base of the published size. shapes: of its checkpoint."""
        self._build(layout, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
        return [float(module.alpha) for module in self._load(file).modules.values()]

    def _build(self, layout: str, tensors: Weights) -> dict[str, nn.Module]:
        """Bare models with these weights, as A1111's current base; returns them by name."""
        roots = _build_modules(layout, tensors)
        texts = [SimpleNamespace(wrapped=roots[name]) for name in PREFIXES[layout].values()]
        self.shared.sd_model = SimpleNamespace(
            is_sdxl=layout == "sdxl", model=roots["model"], cond_stage_model=texts[0],
            conditioner=SimpleNamespace(embedders=texts))
        self.networks.assign_network_names_to_compvis_modules(self.shared.sd_model)
        return roots

    def _load(self, file: str) -> Any:
        """Read an adapter's file as the only one in use."""
        self.networks.networks_in_memory.clear()
        entry = self.network.NetworkOnDisk("adapter", file)
        self.networks.available_networks["adapter"] = self.networks.available_network_aliases["adapter"] = entry
        self.networks.load_networks(["adapter"], [1.0], [1.0], [None])
        if not self.networks.loaded_networks:
            raise RuntimeError(f"A1111 refuses the file: {self.shared.told[-1]}")
        return self.networks.loaded_networks[0]


def _stub_modules(checkout: Path) -> Any:
    """Put stand-ins for A1111's own package `modules` in place; returns its `shared`."""
    package = types.ModuleType("modules")
    package.__path__ = [str(checkout / "modules")]
    sys.modules["modules"] = package
    told: list[str] = []
    cache = {"cached_data_for_file": lambda title, name, filename, read: read()}
    parts = {
        "shared": {"opts": SimpleNamespace(lora_in_memory_limit=0, lora_not_found_warning_console=True,
                                           lora_not_found_gradio_warning=False, lora_preferred_name="Filename",
                                           lora_show_all=False, samples_format="png"),
                   "cmd_opts": SimpleNamespace(lora_dir=tempfile.mkdtemp(), lyco_dir_backcompat=""),
                   "walk_files": lambda *a, **k: [], "told": told},
        "devices": {"cpu": torch.device("cpu"), "device": torch.device("cpu"), "torch_gc": lambda: None,
                    "dtype": torch.float32},
        "sd_models": {"read_state_dict": load_file, "read_metadata_from_safetensors": _metadata_reader(checkout)},
        "ui_extra_networks": {"ExtraNetworksPage": _Page, "quote_js": json.dumps},
        "ui_extra_networks_user_metadata": {"UserMetadataEditor": _Editor},
        "cache": cache, "hashes": {"sha256_from_cache": lambda *a, **k: "", "sha256": lambda *a, **k: ""},
        "errors": {"display": lambda error, task: told.append(f"{type(error).__name__}: {error}"[:200])},
        "sd_hijack": {"model_hijack": SimpleNamespace(embedding_db=SimpleNamespace(word_embeddings={},
                                                                                   expected_shape=-1), comments=[])},
        "scripts": {}, "patches": {}, "textual_inversion": {}, "textual_inversion.textual_inversion": {}}
    for name, values in parts.items():
        module = Stub(f"modules.{name}")
        module.__path__ = []
        vars(module).update(values)
        sys.modules[f"modules.{name}"] = module
        setattr(package, name.partition(".")[0], sys.modules[f"modules.{name.partition('.')[0]}"])
    return sys.modules["modules.shared"]


def _metadata_reader(checkout: Path) -> Any:
    """A1111's own reader of a header, which is one function of a large module."""
    tree = ast.parse((checkout / "modules" / "sd_models.py").read_text())
    name = "read_metadata_from_safetensors"
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    found: dict[str, Any] = {"json": json, "errors": SimpleNamespace(display=print)}
    exec(compile(tree, name, "exec"), found)
    return found[name]


class _Page:
    """A1111's page of adapters without anything that it reads from files beside them."""

    def __init__(self, *arguments: Any) -> None:
        self.items: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **settings: ""

    def get_sort_keys(self, path: str) -> dict[str, Any]:
        """Dates of a file: none."""
        return {}

    def read_user_metadata(self, item: dict[str, Any]) -> None:
        """What a user has written about an adapter: nothing."""
        item["user_metadata"] = {}


class _Editor:
    """A1111's page of one adapter without what it shows of the file itself."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def get_metadata_table(self, name: str) -> list[tuple[str, str]]:
        """Rows on the file: none."""
        return []


def _build_modules(layout: str, tensors: Weights) -> dict[str, nn.Module]:
    """The UNet's wrapper and each text encoder, as bare layers with the checkpoint's weights."""
    roots: dict[str, nn.Module] = {}
    for prefix, name in {**PREFIXES[layout], UNET: "model"}.items():
        own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        with torch.device("meta"):
            roots[name] = _tree({key: tensor.to("meta") for key, tensor in own.items()})
        if any(tensor.is_meta for tensor in own.values()):
            continue
        roots[name].load_state_dict({key: tensor.clone() for key, tensor in own.items()}, assign=True)
        roots[name].requires_grad_(False)
    return roots


def _tree(tensors: Weights) -> nn.Module:
    """Nested modules in which every tensor's name is a parameter."""
    root = nn.Module()
    for key, tensor in tensors.items():
        owner, _, parameter = key.rpartition(".")
        in_attention = f"{owner.rpartition('.')[0]}.in_proj_weight" in tensors
        if parameter == "in_proj_bias" or (owner.endswith("out_proj") and in_attention):
            continue
        if parameter == "in_proj_weight":
            _place(root, owner, nn.MultiheadAttention(tensor.shape[1], 1))
        elif parameter == "weight":
            _place(root, owner, _layer(key, tensor, f"{owner}.bias" in tensors))
        elif parameter != "bias":
            _place(root, owner, nn.Module()).register_parameter(parameter, nn.Parameter(torch.empty_like(tensor)))
    return root


def _layer(key: str, weight: torch.Tensor, bias: bool) -> nn.Module:
    if "embedding" in key.rpartition(".")[0].rpartition(".")[2]:
        return nn.Embedding(*weight.shape)
    if weight.dim() == 4:
        return nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], padding="same", bias=bias)
    if weight.dim() == 2:
        return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    # group norms and layer norms have equal tensors; the loader treats them alike
    return nn.LayerNorm(weight.shape[0])


def _place(root: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Put layer at a dotted name below root, with plain modules in between; returns what stands there."""
    here = root
    *parents, last = name.split(".") if name else [""]
    for part in parents:
        if not hasattr(here, part):
            here.add_module(part, nn.Module())
        here = getattr(here, part)
    if not last:
        return here
    if not hasattr(here, last):
        here.add_module(last, layer)
    return getattr(here, last)
