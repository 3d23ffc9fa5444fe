"""A tiny base, trained adapters in files of several formats and programs, and the pictures that each makes alone."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from adapter_kinds import make, moved, put, widest

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.formats.base import formats
from dbrun.formats.roundtrip import Probe
from dbrun.formats.stamp import write_provenance
from dbrun.models.base import Model, families
from dbrun.use.bases import LocalBase

SD, PROBE = families()["sd"], Probe("a photo of sks dog", 32)


@dataclass
class World:
    """home: where files lie; base: the tiny base, loaded as often as `loads` says."""

    home: Path
    loads: int = 0
    made: dict[str, Path] = field(default_factory=dict)

    @property
    def at_hand(self) -> LocalBase:
        return LocalBase(SD, "base", "files:0", self.home / "base", None)

    def fresh(self) -> Model:
        self.loads += 1
        return SD.load(self.home / "base", device=torch.device("cpu"), dtype=torch.float32)

    def adapters(self, kind: str, seed: int, *components: str) -> dict[str, ComponentAdapter]:
        adapter = make(kind)
        return {c: moved(put(self.fresh(), c, adapter, widest(adapter)), by=0.1, seed=seed)
                for c in components or tuple(SD.components)}

    def write(self, name: str, form: str, adapters: dict[str, ComponentAdapter], document: dict | None = None) -> Path:
        """The adapters in a format, in a folder of this name; its file, or the folder for PEFT."""
        folder = self.home / name
        folder.mkdir()
        written = formats()[form].write(folder, SD, adapters, self.fresh)
        for path in written if document else ():
            write_provenance(path, document)
        return folder if form == "peft" else written[0]

    def alone(self, adapters: dict[str, ComponentAdapter]) -> torch.Tensor:
        model = self.fresh()
        for component, attached in adapters.items():
            attached.attach_to(model.module(component))
        return PROBE.predict(model)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    home = tmp_path_factory.mktemp("after")
    SD.write_tiny_base(home / "base")
    return World(home)
