"""Does PiSSA, whose start must never be lost, come through the stage `train` whole, stopped or not?"""

from pathlib import Path

import torch
from adapter_kinds import make
from tiny_training import FAMILY, content, load, run, write_inputs

from dbrun.adapters.adapter_io import ComponentAdapter, read_adapters, write_adapters
from dbrun.adapters.attach import attach, match_layers, read_weights


def test_it_is_trained_stopped_and_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    module, adapter = load(tmp_path).module("denoiser"), make("pissa")
    modules = match_layers(module, FAMILY.target_presets["denoiser"]["linear"])
    attach(module, adapter, modules, seed=1)
    first = read_weights(module)
    write_adapters(tmp_path / "adapt", {"denoiser": ComponentAdapter(adapter.resolved_for(modules), modules, first)})

    run(tmp_path, tmp_path / "whole", tmp_path / "whole.work", steps=4)
    for steps in (2, 4):
        run(tmp_path, tmp_path / f"to{steps}", tmp_path / "work", steps=steps)
    assert content(tmp_path / "to4") == content(tmp_path / "whole")
    last = read_adapters(tmp_path / "whole")["denoiser"].state
    stays = {name for name in first if torch.equal(first[name], last[name])}
    assert last.keys() == first.keys() and stays == {name for name in first if name.startswith("start/")}
