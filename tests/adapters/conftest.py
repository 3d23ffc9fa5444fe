"""Small real modules to put adapters on."""

import pytest
import torch
from torch import nn

from dbrun.adapters.attach import attach, read_weights, write_weights
from dbrun.adapters.base import Adapter


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


class Worn:
    """One layer with an adapter whose weights are drawn at random, and what it then adds to the layer's weight."""

    def __init__(self, adapter: Adapter, layer: nn.Module) -> None:
        self.bare, self.adapter = layer.weight.detach().clone(), adapter
        self.net = nn.Sequential(layer).eval()
        assert adapter.layer_problem({"0": layer.weight.shape}) is None
        attach(self.net, adapter, ("0",), seed=0)
        draw = torch.Generator().manual_seed(2)
        self.first = read_weights(self.net)
        write_weights(self.net, {name: t if name.startswith("start/") else 0.3 * torch.randn(t.shape, generator=draw)
                                 for name, t in self.first.items()})
        self.state = {name.removeprefix("0."): t.double() for name, t in read_weights(self.net).items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the adapter's weights, by their own names."""
        return {name: tuple(t.shape) for name, t in self.state.items()}

    def weight(self) -> torch.Tensor:
        """The weight that the layer acts with, in 64 bits: its answers to a basis of inputs, without the bias."""
        layer = self.net[0].get_base_layer()
        inputs = torch.eye(self.bare[0].numel()).reshape(-1, *self.bare.shape[1:])
        still = torch.zeros_like(inputs[:1])
        with torch.no_grad():
            answers = self.net(inputs) - self.net(still)
        assert isinstance(layer, nn.Linear) or layer.padding == (0, 0)
        return answers.reshape(len(inputs), -1).T.reshape(self.bare.shape).double()

    def delta(self) -> torch.Tensor:
        """What it adds to the layer's own weight."""
        return self.weight() - self.bare.double()


@pytest.fixture(name="worn")
def _worn() -> type[Worn]:
    return Worn


@pytest.fixture
def linear() -> nn.Linear:
    """12 inputs, 8 outputs."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return nn.Linear(12, 8)


@pytest.fixture
def conv() -> nn.Conv2d:
    """6 channels to 4, kernel 3, so that a patch gives one answer."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(4)
        return nn.Conv2d(6, 4, 3)
