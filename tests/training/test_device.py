"""Is torch set up as planned, and does every draw have an address?"""

import os

import pytest
import torch

from dbrun.errors import StageFailed, is_nondeterministic
from dbrun.stages.sources import Numerics
from dbrun.training.device import (
    allow_tf32,
    channels_last,
    deterministic_algorithms,
    generator,
    seeded_rng,
    set_up_device,
)


def test_threads_are_those_of_the_plan() -> None:
    before = torch.get_num_threads()
    try:
        assert set_up_device(Numerics("cpu", 1)) == torch.device("cpu")
        assert torch.get_num_threads() == 1
        set_up_device(Numerics("cpu", 0))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_said_clearly(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(StageFailed, match=device) as failure:
        set_up_device(Numerics(device, 0))
    assert failure.value.fix is not None and "device: cpu" in failure.value.fix


def test_each_process_of_a_machine_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    found = [set_up_device(Numerics("cuda", 0), local) for local in (0, 1)]
    assert found == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert taken == [0, 1], "dropout draws from the generator of the current device"
    with pytest.raises(StageFailed, match="finds only 2 GPUs"):
        set_up_device(Numerics("cuda", 0), 2)


def test_a_gpu_would_compute_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    cudnn.deterministic, cudnn.benchmark = False, True
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    set_up_device(Numerics("cpu", 1))
    assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("before", [0, 1, 2])
def test_deterministic_algorithms_are_switched_and_put_back(before: int) -> None:
    def put() -> None:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    torch.set_deterministic_debug_mode(before)
    try:
        with deterministic_algorithms(True), pytest.raises(RuntimeError) as raised:
            put()
        assert is_nondeterministic(raised.value) and not is_nondeterministic(RuntimeError("out of memory"))
        with deterministic_algorithms(False):
            put()
        assert torch.get_deterministic_debug_mode() == before
    finally:
        torch.set_deterministic_debug_mode(0)


def test_cudnn_looks_for_its_fastest_convolution_unless_the_same_bits_are_asked_for() -> None:
    cudnn = torch.backends.cudnn
    set_up_device(Numerics("cpu", 1))
    for wanted in (True, False):
        with deterministic_algorithms(wanted):
            assert (cudnn.deterministic, cudnn.benchmark) == (wanted, not wanted)
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)


def test_the_layout_of_convolutions_changes_no_number_and_is_undone() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    before, x = {name: tensor.clone() for name, tensor in module.state_dict().items()}, torch.randn(2, 4, 3, 3)
    plain = module(x)
    with channels_last(module):
        assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert not module[0].weight.is_contiguous()
        torch.testing.assert_close(module(x), plain)
    assert all(tensor.is_contiguous() and tensor.equal(before[name]) for name, tensor in module.state_dict().items())


def test_an_address_names_a_stream() -> None:
    def drawn(*address: str | int) -> list[float]:
        return torch.randn(3, generator=generator(*address)).tolist()  # type: ignore[arg-type]

    assert drawn(0, "noise", 1) == drawn(0, "noise", 1)
    assert len({tuple(drawn(*a)) for a in ((0, "noise", 1), (0, "noise", 2), (0, "latents", 1), (1, "noise", 1))}) == 4


def test_seeded_repeats_dropout_and_puts_the_global_state_back() -> None:
    before, ones = torch.get_rng_state(), torch.ones(64)
    masks = []
    for seed in (3, 3, 4):
        with seeded_rng(seed, torch.device("cpu")):
            masks.append(torch.nn.functional.dropout(ones))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    assert torch.equal(before, torch.get_rng_state())


def test_tf32_is_allowed_only_when_asked_and_until_the_next_stage() -> None:
    def allowed() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    set_up_device(Numerics("cpu", 1))
    assert allowed() == (False, False)
    allow_tf32()
    assert allowed() == (True, True)
    set_up_device(Numerics("cpu", 1))
    assert allowed() == (False, False)
