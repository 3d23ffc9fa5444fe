"""ComfyUI's own loaders: `load_checkpoint_guess_config` for checkpoints and `load_lora_for_models` for adapters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from compare import Program, Weights
from stubs import stub

WHERE = {"sd15": "SD15", "sdxl": "SDXL"}
"""Layout -> class of comfy.supported_models."""
UNET = "model.diffusion_model."
UNREAD = ("text.clip_l.transformer.text_projection.weight", "text.clip_g.logit_scale", "text.clip_l.logit_scale")
"""Weights of its models that no checkpoint of these bases has: they hold whatever was in memory."""


class Reader(Program):
    """One checkout of ComfyUI."""

    def __init__(self, checkout: Path) -> None:
        super().__init__(checkout)
        sys.path.insert(0, str(checkout))
        sys.argv = sys.argv[:1]
        stub("torchvision", "torchaudio", "av", "kornia", "spandrel", "comfy_api", "torchsde", "sentencepiece")
        import comfy.options
        from comfy.cli_args import args

        args.cpu = True
        import comfy.model_management
        import comfy.sd

        self.sd, self.management = comfy.sd, comfy.model_management
        self.published: dict[str, dict[str, Any]] = {}

    def shrink(self, layout: str, unet: dict[str, Any], text: dict[str, dict[str, Any]]) -> None:
        """Tell the widths of the small bases: detection compares them with the published ones.

        unet: entries of `unet_config`; text: encoder, such as clip_l -> entries of its config.
        """
        import comfy.supported_models as models

        kind = getattr(models, WHERE[layout])
        kind.unet_config = {**kind.unet_config, **unet}
        self.published[layout] = {f"{name}_model_config": config for name, config in text.items()}

    def _load(self, layout: str, checkpoint: str) -> Any:
        import comfy.utils

        tensors = comfy.utils.load_torch_file(checkpoint)
        model, clip, _, _ = self.sd.load_state_dict_guess_config(
            tensors, output_vae=False, model_options={"dtype": torch.float32},
            te_model_options={**self.published[layout], "dtype": torch.float32})
        # the loader takes the tensors that it uses out of the dict
        return model, clip, sorted(tensors)

    def weights(self, layout: str, checkpoint: str, file: str | None = None) -> Weights:
        """As in the base class."""
        import comfy.utils

        model, clip, _ = self._load(layout, checkpoint)
        if file is not None:
            lora = comfy.utils.load_torch_file(file)
            model, clip = self.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
            self.management.load_models_gpu([model, clip.patcher], force_patch_weights=True, force_full_load=True)
        found = {f"unet.{name}": tensor for name, tensor in model.model.diffusion_model.state_dict().items()}
        found |= {f"text.{name}": tensor for name, tensor in clip.cond_stage_model.state_dict().items()}
        weights = {name: tensor.detach().clone() for name, tensor in found.items()
                   if tensor.is_floating_point() and name not in UNREAD}
        self.management.unload_all_models()
        return weights

    def taken(self, layout: str, shapes: dict[str, list[int]], file: str, text: list[dict[str, Any]]) -> list[float]:
        """Alpha of each layer of a file that is read, on a base of the published size. shapes: of its checkpoint."""
        import comfy.lora
        import comfy.utils

        _, model, clip = self._build(shapes, [])
        names = comfy.lora.model_lora_keys_unet(model, {})
        names = comfy.lora.model_lora_keys_clip(clip, names)
        patches = comfy.lora.load_lora(comfy.utils.load_torch_file(file), names)
        return [float(patch.weights[2]) for patch in patches.values()]

    def detect(self, shapes: dict[str, list[int]], marks: list[str]) -> dict[str, Any]:
        """What a checkpoint of the published size is taken for, and which of its tensors do not fit the model.

        shapes: tensor name -> shape; marks: names of empty tensors.
        """
        config, model, clip = self._build(shapes, marks)
        tensors = _meta(shapes)
        unet = {name.removeprefix(UNET) for name in tensors if name.startswith(UNET)}
        wanted = {name for name in clip.state_dict() if f"text.{name}" not in UNREAD}
        given = config.process_clip_state_dict(dict(tensors)).keys()
        return {"base": type(config).__name__, "prediction": model.model_type.name,
                "zero SNR": bool(config.sampling_settings.get("zsnr")),
                "UNet differs": sorted(unet ^ model.diffusion_model.state_dict().keys()),
                "text lacks": sorted(wanted - given), "VAE differs": self._vae(tensors)}

    def _build(self, shapes: dict[str, list[int]], marks: list[str]) -> tuple[Any, Any, Any]:
        """Config, UNet's model and text encoders of a checkpoint, without weights."""
        from comfy import model_detection

        tensors = _meta(shapes) | {name: torch.zeros(0) for name in marks}
        config = model_detection.model_config_from_unet(tensors, UNET)
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model(tensors, UNET, device="meta")
        return config, model, config.clip_target(state_dict=tensors).clip(device="meta", dtype=torch.float32)

    def _vae(self, tensors: dict[str, torch.Tensor]) -> list[str]:
        """Tensors of the VAE that its model has and the checkpoint has not, or the other way round."""
        own = {name.removeprefix("first_stage_model."): tensor for name, tensor in tensors.items()
               if name.startswith("first_stage_model.")}
        with torch.device("meta"):
            vae = self.sd.VAE(sd=dict(own))
        return sorted(own.keys() ^ vae.first_stage_model.state_dict().keys())


def _meta(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
