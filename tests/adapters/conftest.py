"""Small real modules to put adapters on."""

import pytest
import torch
from torch import nn


class Net(nn.Module):
    """Names as a UNet has them: nested blocks, linear and convolution layers, and layers that take no adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.down = nn.ModuleList(nn.ModuleDict({"to_q": nn.Linear(8, 8), "to_k": nn.Linear(8, 8)}) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.conv_in(x)).mean((2, 3))
        for block in self.down:
            hidden = hidden + torch.tanh(block["to_q"](hidden)) * block["to_k"](hidden)
        return hidden


@pytest.fixture
def net() -> Net:
    """The same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Net()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
