"""Does every stage give the same bytes with its denoiser's blocks offloaded? On a CPU, where they are copied, too."""

from pathlib import Path

import pytest
from tiny_training import content, job, write_inputs

from dbrun.models import offload
from dbrun.stages.base import RuntimeOptions
from dbrun.stages.support import base_loading
from dbrun.stages.train import Train

LARGE = {"export": ("diffusers", "peft", "kohya", "component", "merged", "single_file")}


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The CPU counts as a device with memory of its own; each block that computes is noted."""
    monkeypatch.setattr(base_loading, "has_own_memory", lambda device: True)
    computed: list[object] = []
    begins = offload.BlockOffload._block_begins

    def noted(self: offload.BlockOffload, block: object, args: object) -> None:
        computed.append(block)
        begins(self, block, args)

    monkeypatch.setattr(offload.BlockOffload, "_block_begins", noted)
    return computed


def test_a_training_is_the_same_to_the_byte(tmp_path: Path, begun: list[object]) -> None:
    write_inputs(tmp_path)

    def trained(name: str, is_offloaded: bool, **changes: object) -> dict[str, bytes]:
        runtime = RuntimeOptions(1, 1, gradient_checkpointing=True, offload=is_offloaded)
        Train().run(job(tmp_path, tmp_path / name, tmp_path / f"{name}.work", steps=2, runtime=runtime, **changes))
        return content(tmp_path / name)

    plain = trained("plain", False, prior_target="base")
    assert not begun
    assert trained("offloaded", True, prior_target="base") == plain and begun


@pytest.mark.slow
def test_every_stage_and_format_is_the_same_to_the_byte(bench, recipe, content, begun: list[object]) -> None:
    for name in ("load", "adapt", "generate-priors", "preprocess", "train", "export"):
        plain = content(bench.run(name, recipe(**LARGE)).path)
        bench.items.home = bench.items.home.with_name(f"{name}-items")
        bench.offload = True
        before = len(begun)
        assert content(bench.run(name, recipe(**LARGE)).path) == plain, name
        assert (len(begun) > before) is (name in ("generate-priors", "train", "export"))
        bench.offload = False
