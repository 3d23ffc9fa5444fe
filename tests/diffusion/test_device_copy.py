"""Do tensors reach a device by one copy that waits for nothing, with all their bits? On torch's `meta` device."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dbrun.diffusion import device_copy
from dbrun.diffusion.device_copy import one_to_device, to_device

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
TENSORS = {"x0": torch.randn(2, 4, 3, 3), "t": torch.tensor([7, 999]), "mask": torch.tensor([True, False, True]),
           "text": torch.randn(2, 5).to(torch.bfloat16), "turned": torch.randn(3, 5).T, "number": torch.tensor(0.25),
           "nothing": torch.empty(0, 3), "precise": torch.tensor([1e-300], dtype=torch.float64)}


def test_on_the_cpu_they_are_the_same_tensors() -> None:
    moved = to_device(TENSORS, CPU)
    assert list(moved) == list(TENSORS)
    assert all(moved[name] is tensor for name, tensor in TENSORS.items())


def test_one_copy_carries_all_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Tensor] = []
    real_to = Tensor.to

    def back_again(tensor: Tensor, device: torch.device, **words: Any) -> Tensor:
        """A copy in CPU memory in place of one on the device."""
        assert device == ELSEWHERE and words == {"non_blocking": True}
        copies.append(tensor)
        return real_to(tensor, CPU, copy=True)

    monkeypatch.setattr(Tensor, "to", back_again)
    moved = to_device(TENSORS, ELSEWHERE)
    assert len(copies) == 1 and list(moved) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert moved[name].dtype == tensor.dtype and torch.equal(moved[name], tensor)
        assert moved[name] is not tensor


def test_what_is_there_stays_as_it_is() -> None:
    there = torch.empty(3, device=ELSEWHERE)
    moved = to_device({"there": there, "here": torch.ones(2)}, ELSEWHERE)
    assert moved["there"] is there and moved["here"].device == ELSEWHERE
    assert one_to_device(there, ELSEWHERE) is there


def test_a_gpu_gets_them_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(device_copy.torch, "empty", lambda size, *, dtype, pin_memory: asked.append(pin_memory))
    for device in ("cuda", "meta"):
        device_copy._staging_buffer(64, torch.device(device))
    assert asked == [True, False]
