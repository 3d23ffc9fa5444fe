"""sd-scripts' own loaders: its checkpoint readers, then `networks.lora` merged into its own UNet and text encoders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from compare import Program, Weights
from stubs import stub


class Reader(Program):
    """One checkout of sd-scripts."""

    def __init__(self, checkout: Path) -> None:
        super().__init__(checkout)
        stub("torchvision", "cv2")
        sys.path.insert(0, str(checkout))
        import networks.lora
        from library import model_util, sdxl_model_util, sdxl_original_unet

        self.models, self.sdxl_models = model_util, sdxl_model_util
        self.sdxl_unet = sdxl_original_unet
        self.create = networks.lora.create_network_from_weights

    def shrink(self, layout: str, unet: dict[str, Any], text: dict[str, dict[str, Any]]) -> None:
        """Tell the widths of the small bases: the readers have the published ones written down."""
        width, context = unet["model_channels"], unet["context_dim"]
        if layout == "sdxl":
            self.sdxl_unet.MODEL_CHANNELS, self.sdxl_unet.CONTEXT_DIM = width, context
            self.sdxl_unet.TIME_EMBED_DIM, self.sdxl_unet.ADM_IN_CHANNELS = 4 * width, unet["adm_in_channels"]
            self.sdxl_models.CLIPTextConfig = _small_config(self.sdxl_models.CLIPTextConfig, text)
            attention = self.sdxl_unet.Transformer2DModel

            def narrow(**settings: Any) -> Any:
                return attention(**{**settings, "cross_attention_dim": context})

            self.sdxl_unet.Transformer2DModel = narrow
        else:
            self.models.UNET_PARAMS_MODEL_CHANNELS, self.models.UNET_PARAMS_CONTEXT_DIM = width, context
            self.models.CLIPTextConfig = _small_config(self.models.CLIPTextConfig, text)
            import library.original_unet as original

            original.BLOCK_OUT_CHANNELS = (width, 2 * width, 4 * width, 4 * width)
            original.TIMESTEP_INPUT_DIM, original.TIME_EMBED_DIM = width, 4 * width
        self.models.VAE_PARAMS_CH = 32

    def weights(self, layout: str, checkpoint: str, file: str | None = None) -> Weights:
        """As in the base class."""
        unet, texts = self._open(layout, checkpoint)
        if file is not None:
            given = texts if len(texts) > 1 else texts[0]
            network, tensors = self.create(1.0, file, None, given, unet, for_inference=True)
            network.merge_to(given, unet, tensors, torch.float32, "cpu")
        found: dict[str, torch.Tensor] = {}
        for prefix, module in zip(("unet.", "text.", "text2."), (unet, *texts), strict=False):
            found |= {prefix + name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}

    def taken(self, layout: str, shapes: dict[str, list[int]], file: str, text: list[dict[str, Any]]) -> list[float]:
        """Alpha of each layer of a file that is read, at the published size. text: configs of the encoders."""
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        with torch.device("meta"):
            if layout == "sdxl":
                unet = self.sdxl_unet.SdxlUNet2DConditionModel()
            else:
                unet = self.models.UNet2DConditionModel(**self.models.create_unet_diffusers_config(False))
            kinds = (CLIPTextModel, CLIPTextModelWithProjection)
            texts = [kind(CLIPTextConfig.from_dict(config)) for kind, config in zip(kinds, text, strict=False)]
        given = texts if len(texts) > 1 else texts[0]
        network, _ = self.create(1.0, file, None, given, unet, for_inference=True)
        return [float(layer.alpha) for layer in (*network.unet_loras, *network.text_encoder_loras)]

    def _open(self, layout: str, checkpoint: str) -> tuple[Any, list[Any]]:
        """UNet and text encoders of a checkpoint."""
        if layout == "sdxl":
            first, second, _, unet, _, _ = self.sdxl_models.load_models_from_sdxl_checkpoint(
                "sdxl_base_v1-0", checkpoint, "cpu")
            return unet, [first, second]
        first, _, unet = self.models.load_models_from_stable_diffusion_checkpoint(False, checkpoint, "cpu")
        return unet, [first]


def _small_config(config: type, text: dict[str, dict[str, Any]]) -> Any:
    """CLIPTextConfig that takes the published sizes and gives the small ones."""
    by_width = {768: text["clip_l"], 1280: text.get("clip_g", {})}

    def small(**settings: Any) -> Any:
        return config(**{**settings, **by_width[settings["hidden_size"]]})

    return small

