"""Forge's own loaders: `huggingface_guess` for checkpoints, `sd_forge_lora` and its patchers for adapters.

The checkout holds huggingface_guess in `repositories/`, where Forge itself fetches it at its first start. The models
are bare layers under the names that Forge gives the checkpoint's tensors.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from compare import Program, Weights
from safetensors.torch import load_file
from stubs import stub
from torch import nn

WHERE = {"sd15": "SD15", "sdxl": "SDXL"}
"""Layout -> class of huggingface_guess.model_list."""
UNET = "model.diffusion_model."
UNREAD = ("transformer.text_projection.weight", "logit_scale")
"""Ends of names that Forge does not miss in a text encoder."""


class Reader(Program):
    """One checkout of Forge."""

    def __init__(self, checkout: Path) -> None:
        super().__init__(checkout)
        self.checkout = checkout
        sys.path[:0] = [str(checkout / place) for place in (
            "", "packages_3rdparty", "repositories/huggingface_guess", "extensions-builtin/sd_forge_lora")]
        sys.argv = [sys.argv[0], "--always-cpu"]
        stub("modules", "gradio", "sentencepiece")
        import modules

        settings = SimpleNamespace(lora_dir=tempfile.mkdtemp())
        modules.shared = SimpleNamespace(cmd_opts=settings, walk_files=lambda *a, **k: [])
        import huggingface_guess
        import networks
        from backend.patcher import base, clip

        self.guess, self.load_adapter = huggingface_guess.guess, networks.load_lora_for_models
        self.patcher, self.clip = base.ModelPatcher, clip.CLIP

    def shrink(self, layout: str, unet: dict[str, Any], text: dict[str, dict[str, Any]]) -> None:
        """Tell the widths of the small bases: detection compares them with the published ones."""
        from huggingface_guess import model_list

        kind = getattr(model_list, WHERE[layout])
        kind.unet_config = {**kind.unet_config, **unet}

    def weights(self, layout: str, checkpoint: str, file: str | None = None) -> Weights:
        """As in the base class; without Forge's `on the fly` mode, which computes the same at every step."""
        config, unet, text = self._split(load_file(checkpoint))
        model = _bare({f"diffusion_model.{name}": tensor for name, tensor in unet.items()})
        model.config, model.diffusion_model.config = config, config.unet_config
        encoders = self.clip(no_init=True)
        encoders.cond_stage_model, encoders.tokenizer = _bare(text), None
        patchers = [self._patcher(model), self._patcher(encoders.cond_stage_model)]
        encoders.patcher = patchers[1]
        if file is not None:
            patched, encoders = self.load_adapter(patchers[0], encoders, load_file(file), 1.0, 1.0, filename=file)
            patched.refresh_loras()
            encoders.patcher.refresh_loras()
        found = {f"unet.{name}": tensor for name, tensor in model.state_dict().items()}
        found |= {f"text.{name}": tensor for name, tensor in encoders.cond_stage_model.state_dict().items()}
        return {name: tensor.detach().clone() for name, tensor in found.items() if tensor.is_floating_point()}

    def detect(self, shapes: dict[str, list[int]], marks: list[str]) -> dict[str, Any]:
        """What a checkpoint of the published size is taken for, and which of its tensors do not fit the model.

        shapes: tensor name -> shape; marks: names of empty tensors.
        """
        from backend.nn.unet import IntegratedUNet2DConditionModel
        from backend.nn.vae import IntegratedAutoencoderKL

        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        config, unet, text = self._split(tensors | {name: torch.zeros(0) for name in marks})
        place = self.checkout / "backend" / "huggingface" / config.huggingface_repo
        with torch.device("meta"):
            model = IntegratedUNet2DConditionModel.from_config(config.unet_config)
            vae = IntegratedAutoencoderKL.from_config(IntegratedAutoencoderKL.load_config(place / "vae"))
        own = {name.removeprefix("first_stage_model.") for name in tensors if name.startswith("first_stage_model.")}
        return {"base": type(config).__name__, "prediction": config.model_type(dict.fromkeys(marks)).name,
                "zero SNR": "ztsnr" in marks, "UNet differs": sorted(unet.keys() ^ model.state_dict().keys()),
                "text lacks": sorted(self._encoder_names(config, place) - text.keys()),
                "VAE differs": sorted(own ^ vae.state_dict().keys())}

    def _split(self, tensors: Weights) -> tuple[Any, Weights, Weights]:
        """Configs that Forge guesses, and the tensors of UNet and text encoders by Forge's names."""
        config = self.guess(dict(tensors))
        unet = {name.removeprefix(UNET): tensor for name, tensor in tensors.items() if name.startswith(UNET)}
        text = config.process_clip_state_dict(dict(tensors))
        encoders = tuple(f"{name}." for name in config.clip_target(tensors))
        return config, unet, {name: tensor for name, tensor in text.items() if name.startswith(encoders)}

    def _patcher(self, model: nn.Module) -> Any:
        cpu = torch.device("cpu")
        return self.patcher(model, load_device=cpu, offload_device=cpu)

    def _encoder_names(self, config: Any, place: Path) -> set[str]:
        """Names of the tensors that Forge's text encoders want."""
        from backend.nn.clip import IntegratedCLIP
        from transformers import CLIPTextConfig, CLIPTextModel

        names: set[str] = set()
        for encoder, folder in config.clip_target({}).items():
            with torch.device("meta"):
                model = IntegratedCLIP(CLIPTextModel, CLIPTextConfig.from_pretrained(place / folder),
                                       add_text_projection=True)
            names |= {f"{encoder}.{name}" for name in model.state_dict() if not name.endswith(UNREAD)}
        return names


def _bare(tensors: Weights) -> Any:
    """Nested modules in which every tensor's name is a parameter."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *parents, last = name.split(".")
        here = root
        for parent in parents:
            if not hasattr(here, parent):
                here.add_module(parent, nn.Module())
            here = getattr(here, parent)
        here.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    return root
