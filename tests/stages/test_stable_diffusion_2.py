"""Does Stable Diffusion 2.x go through the same family as 1.x? (linear projections, OpenCLIP text encoder, v)"""

from pathlib import Path

import pytest
import torch
from second_base import as_second

from dbrun.adapters.adapter_io import read_adapters
from dbrun.models.base import families

BOTH = {"denoiser": {"type": "lora", "rank": 2, "alpha": 6.0, "targets": "all"},
        "text_encoder": {"type": "lora", "rank": 2, "targets": "all"}}


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of 2.x that predicts v."""
    folder = tmp_path_factory.mktemp("second") / "base"
    families()["sd"].write_tiny_base(folder, prediction="v_prediction")
    return as_second(folder)


def test_its_projections_are_linear_and_adapted(second: Path) -> None:
    from dbrun.adapters.attach import match_layers

    family = families()["sd"]
    unet = family.load(second, device=torch.device("cpu"), dtype=torch.float32).denoiser
    hit = match_layers(unet, family.target_presets["denoiser"]["all"])
    linear = {name for name in hit if name.endswith(("proj_in", "proj_out"))}
    assert linear and all(isinstance(unet.get_submodule(name), torch.nn.Linear) for name in linear)


def test_it_is_trained_on_v_and_exported(second: Path, bench, content) -> None:
    """From loading to the export, which reads each format back with its own library; both components learn."""
    bench.base = second
    chosen = bench.recipe(adapt=BOTH, prior=None, train={"steps": 2, "learning_rate": 0.05},
                          objective={"weighting": {"type": "min_snr"}})
    files = content(bench.through("export", chosen).path)
    assert {"pytorch_lora_weights.safetensors", "before_after.png"} <= files.keys()
    assert not any(name.startswith("scheduler/") for name in files), "it is sampled as its base says"
    before, after = (read_adapters(bench.artifacts[name].path) for name in ("adapt", "train"))
    for component in BOTH:
        assert any(not after[component].state[n].equal(t) for n, t in before[component].state.items())


def test_its_target_is_v(second: Path, bench) -> None:
    """Trained on epsilon, as if its scheduler were not read, it would become another adapter."""
    bench.base = second
    digests = set()
    for objective in ({}, {"prediction": "v_prediction"}, {"prediction": "epsilon"}):
        chosen = bench.recipe(prior=None, train={"steps": 2}, objective=objective)
        bench.through("train", chosen)
        state = read_adapters(bench.artifacts["train"].path)["denoiser"].state
        digests.add(tuple(float(t.sum()) for t in state.values()))
    assert len(digests) == 2
