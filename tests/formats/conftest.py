"""A tiny base with a trained adapter on each of its components."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dbrun.adapters.artifact import Attached
from dbrun.adapters.attach import attach, match, read
from dbrun.adapters.base import types
from dbrun.families.base import Family, Loaded, families
from dbrun.formats.reload import Expected, Probe


@dataclass(frozen=True)
class Trained:
    """family, folder: a base; adapters: far from their start; expected: what they predict."""

    family: Family
    folder: Path
    adapters: dict[str, Attached]
    probe: Probe
    expected: Expected

    def fresh(self) -> Loaded:
        return self.family.load(self.folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session", params=[(f, a) for f in families().values() for a in types()],
                ids=lambda pair: f"{pair[0].NAME}-{pair[1].NAME}")
def trained(request, tmp_path_factory) -> Trained:
    """Every family with every adapter type."""
    family, kind = request.param
    folder = tmp_path_factory.mktemp("formats") / "base"
    family.tiny(folder)
    loaded = family.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    probe = Probe("a photo of sks dog", 32)
    base = probe.ask(family, loaded)
    draw = torch.Generator().manual_seed(0)
    adapters = {}
    for component in family.components:
        adapter = kind.model_validate({"type": kind.NAME, "targets": "all", "rank": 2, "alpha": 5.0})
        module = family.module(loaded, component)
        modules = match(module, family.presets[component]["all"], adapter.layers)
        attach(module, adapter, modules, seed=0)
        state = {k: t + 0.1 * torch.randn(t.shape, generator=draw) for k, t in read(module).items()}
        adapters[component] = Attached(adapter, modules, state)
    on = family.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    for component, attached in adapters.items():
        attached.onto(family.module(on, component))
    return Trained(family, folder, adapters, probe, Expected(base, probe.ask(family, on), adapters))
