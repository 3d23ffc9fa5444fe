"""Bases at the published layouts: every layer of SD 1.5 and SDXL, a tenth of the widths, random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dbrun.formats.older_transformers import write_older_names, write_older_tokenizer
from dbrun.models.base import Family, families
from dbrun.models.ldm_layouts import PUBLISHED
from dbrun.models.sd import byte_tokenizer

UNET_WIDTH, VAE_WIDTH = 32, 32
"""Width of the first level: 320 and 128 as published. Norms have 32 groups, so that 32 is the least."""
TEXT_WIDTHS = {768: 64, 1280: 96}
"""Published width of a text encoder -> width here; unequal, so that no mix-up of two encoders goes unseen."""


@dataclass(frozen=True)
class PublishedLayout:
    """name: for people; family; folder: of the configs in `dbrun/models/published`."""

    name: str
    family: Family
    folder: str

    def config(self, component: str) -> dict[str, Any]:
        """The published config of a component."""
        return json.loads((PUBLISHED / self.folder / component / "config.json").read_text())

    def small_config(self, component: str) -> dict[str, Any]:
        """The same with small widths."""
        config = self.config(component)
        if component == "vae":
            return config | {"block_out_channels": [VAE_WIDTH, VAE_WIDTH * 2, VAE_WIDTH * 4, VAE_WIDTH * 4]}
        if component != "unet":
            width = TEXT_WIDTHS[config["hidden_size"]]
            return config | {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width,
                             "num_attention_heads": 4}
        first = config["block_out_channels"][0]
        small = {"block_out_channels": [width // first * UNET_WIDTH for width in config["block_out_channels"]],
                 "cross_attention_dim": sum(TEXT_WIDTHS[self.config(name)["hidden_size"]]
                                            for name in self.family.text_encoders)}
        if isinstance(config["attention_head_dim"], list):
            small["attention_head_dim"] = [1, 2, 4]
        if config.get("addition_time_embed_dim"):
            pooled = TEXT_WIDTHS[self.config("text_encoder_2")["projection_dim"]]
            small |= {"addition_time_embed_dim": 16, "projection_class_embeddings_input_dim": pooled + 6 * 16}
        return config | small

    def modules(self, *, small: bool) -> dict[str, torch.nn.Module]:
        """UNet, VAE and text encoders with random weights, by their names in model_index.json."""
        import diffusers
        import transformers

        read = self.small_config if small else self.config
        index = json.loads((PUBLISHED / self.folder / "model_index.json").read_text())
        made: dict[str, torch.nn.Module] = {}
        for name in self.family.weight_components:
            library, class_name = index[name]
            config = read(name)
            if library == "diffusers":
                made[name] = getattr(diffusers, class_name).from_config(config)
            else:
                made[name] = getattr(transformers, class_name)(transformers.CLIPTextConfig.from_dict(config))
        return made

    def write_small_base(self, folder: Path) -> None:
        """Write the base in diffusers format, by the names of transformers 4."""
        import diffusers

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts: dict[str, Any] = dict(self.modules(small=True))
        for name in self.family.tokenizers:
            parts[name] = byte_tokenizer()
        config = json.loads((PUBLISHED / self.folder / "scheduler" / "scheduler_config.json").read_text())
        parts["scheduler"] = getattr(diffusers, config["_class_name"]).from_config(config)
        if self.family.NAME == "sd":
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        getattr(diffusers, self.family.pipeline_classes[0])(**parts).save_pretrained(folder)
        # as published bases are stored, which older libraries read as well
        for name in self.family.text_encoders:
            write_older_names(folder / name, self.family, name)
        for name in self.family.tokenizers:
            write_older_tokenizer(folder / name)

    def widths(self) -> dict[str, Any]:
        """Entries of ComfyUI's configs that differ from the published ones: `unet`, and `text` by encoder."""
        unet = self.small_config("unet")
        found: dict[str, Any] = {"model_channels": UNET_WIDTH, "context_dim": unet["cross_attention_dim"]}
        if "projection_class_embeddings_input_dim" in unet:
            found["adm_in_channels"] = unet["projection_class_embeddings_input_dim"]
        text: dict[str, Any] = {}
        for encoder, name in zip(("clip_l", "clip_g"), self.family.text_encoders, strict=False):
            config = self.small_config(name)
            text[encoder] = {key: config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads",
                                                      "projection_dim")}
        return {"unet": found, "text": text}

    def true_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of each tensor of a checkpoint of one file at the published widths, without any weights."""
        from types import SimpleNamespace

        from torch._subclasses.fake_tensor import FakeTensorMode

        from dbrun.models.ldm_keys import ldm_state_dict

        with FakeTensorMode():
            pipeline = SimpleNamespace(**self.modules(small=False))
            tensors = ldm_state_dict(pipeline, self.family.checkpoint_layouts[0])
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


LAYOUTS = {"sd15": PublishedLayout("SD 1.5", families()["sd"], "sd1"),
           "sdxl": PublishedLayout("SDXL", families()["sdxl"], "sdxl")}
"""Word on the command line -> layout."""
