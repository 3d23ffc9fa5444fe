"""lycoris-lora, the trainers' own reader and writer of kohya's names, over a base in memory."""

from pathlib import Path

import torch
from torch import nn

from dbrun.models.base import Model


class Prefixed(nn.Module):
    """A text encoder under the names that it had before transformers 5.6, and has in every other program."""

    def __init__(self, text_model: nn.Module) -> None:
        super().__init__()
        self.text_model = text_model


def network_class() -> type:
    """LycorisNetworkKohya; 4.1.3 lists the time embedding's layers twice, by name and class, and stumbles over it."""
    from lycoris.kohya import LycorisNetworkKohya

    LycorisNetworkKohya.UNET_TARGET_REPLACE_NAME = []
    return LycorisNetworkKohya


def put_by_lycoris(model: Model, file: Path) -> None:
    """Let the base predict as the file's network has it; every layer of the file must be read."""
    from lycoris.kohya import create_network_from_weights

    network_class()
    text = Prefixed(model.pipeline.text_encoder)
    network, tensors = create_network_from_weights(1.0, str(file), None, text, model.pipeline.unet)
    network.apply_to(text, model.pipeline.unet, True, True)
    modules = [*network.unet_loras, *network.text_encoder_loras]
    assert {m.lora_name for m in modules} == {name.partition(".")[0] for name in tensors}, "it reads every layer"


def write_by_lycoris(model: Model, path: Path, algo: str, **settings: object) -> None:
    """Put a network on the base, far from its start, and save it in 16 bits as trainers do."""
    text = Prefixed(model.pipeline.text_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = network_class()(text, model.pipeline.unet, network_module=algo, **settings)
    network.apply_to(text, model.pipeline.unet, True, True)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_((p + 0.1 * torch.randn(p.shape, generator=draw)).half().float())
    network.save_weights(str(path), torch.float16, {})
