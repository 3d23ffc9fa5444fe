"""Is a step that several processes make together, to the bit, the step that one makes?"""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from shared_training import CASES, FAST, member, train
from tiny_training import FAMILY
from torch import Tensor, distributed

from dbrun.diffusion.losses import Loss
from dbrun.errors import ProcessLost, StageFailed
from dbrun.training import gradient_sync
from dbrun.training.gradient_sync import SINGLE_PROCESS, GradientSync


@pytest.fixture(scope="module", params=[
    (2, ("adapter", "two components, one of which stops")), pytest.param((2, tuple(CASES)), marks=pytest.mark.slow),
    pytest.param((4, tuple(CASES)), marks=pytest.mark.slow)], ids=["2", "2, all cases", "4, all cases"])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, list[str]]:
    """A folder with what each of so many processes ended with in these cases."""
    size, names = request.param
    home = tmp_path_factory.mktemp("together")
    FAMILY.write_tiny_base(home / "base")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["shared_training", "dbrun.training.loop", "diffusers", "transformers", "peft"])
    members = [processes.Process(target=member, args=(home, rank, size, names)) for rank in range(size)]
    for one in members:
        one.start()
    for one in members:
        one.join(120)
    assert [one.exitcode for one in members] == [0] * size
    return home, size, list(names)


def test_how_many_processes_share_a_step_changes_no_bit(together: tuple[Path, int, list[str]]) -> None:
    home, size, names = together
    for name in names:
        tensors, values = train(home, SINGLE_PROCESS, **CASES[name])
        for rank in range(size):
            theirs, told = torch.load(home / f"{rank}.pt", weights_only=False)[name]
            assert told == values, f"{name}: the same losses, norms and rates, averaged over all micro-batches"
            assert theirs.keys() == tensors.keys(), name
            assert all(theirs[key].equal(tensor) for key, tensor in tensors.items()), name


def test_an_all_reduce_gives_the_same_step_but_for_rounding_and_the_same_in_every_process(
        together: tuple[Path, int, list[str]]) -> None:
    home, size, _ = together
    tensors, values = train(home, SINGLE_PROCESS)
    first, told = torch.load(home / "0.pt", weights_only=False)[FAST]
    for one, other in zip(told["history"], values["history"], strict=True):
        assert one[1:4] == pytest.approx(other[1:4], rel=1e-6)
    apart = [(tensor - first[name]).abs().max().item() for name, tensor in tensors.items() if "adapter/" in name]
    assert 0 < max(apart) < 5e-4
    for rank in range(1, size):
        theirs, _ = torch.load(home / f"{rank}.pt", weights_only=False)[FAST]
        assert all(theirs[key].equal(tensor) for key, tensor in first.items())


def test_processes_make_the_step_of_one_larger_batch_but_for_rounding(
        together: tuple[Path, int, list[str]]) -> None:
    """Four batches of 1 against one of 4, over steps of 5e-3: measured, 1e-7 of the losses, 6e-5 in the weights.

    The weights are further apart than the losses, since AdamW divides the smallest gradients by themselves.
    """
    home, _, _ = together
    larger, told = train(home, SINGLE_PROCESS, size=4, accumulation=1)
    shared, values = torch.load(home / "0.pt", weights_only=False)["adapter"]
    for one, other in zip(told["history"], values["history"], strict=True):
        assert one[1:4] == pytest.approx(other[1:4], rel=1e-6)
    apart = [(tensor - shared[name]).abs().max().item() for name, tensor in larger.items() if "adapter/" in name]
    assert 0 < max(apart) < 5e-4


def test_micro_batches_that_cannot_be_dealt_evenly_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="3 micro-batches cannot be split evenly over 2"):
        GradientSync(0, 2).slots(3)
    assert [list(GradientSync(rank, 2).slots(4)) for rank in (0, 1)] == [[0, 2], [1, 3]]


def two_processes_alike(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the other of two processes one that holds twice these gradients. Returns the lengths of what is sent."""
    sent: list[int] = []

    def both(self: GradientSync, mine: Tensor) -> Tensor:
        sent.append(len(mine))
        return torch.stack([mine, 2 * mine]).view(2, 2, -1)[:, self.rank]

    monkeypatch.setattr(distributed, "get_backend_config", lambda: "cpu:gloo")
    monkeypatch.setattr(GradientSync, "all_gather", lambda self, mine: [mine, mine])
    monkeypatch.setattr(GradientSync, "exchange_shards", both)
    # both processes have the first shard here: it is the first half of each bucket
    monkeypatch.setattr(GradientSync, "join_shards", lambda self, shard: torch.cat([shard, shard]))
    monkeypatch.setattr(GradientSync, "all_reduce", lambda self, flat: flat.mul_(3))
    monkeypatch.setattr(gradient_sync, "BUCKET_SIZE", 4)
    return sent


@pytest.mark.parametrize("fast", [False, True])
def test_a_gradient_that_no_pass_reached_stays_none_and_all_are_sent_in_buckets(
        monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    """AdamW would let a gradient of zero decay the weight. The other process holds twice these gradients."""
    sent = two_processes_alike(monkeypatch)
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (2, 2, 6, 3, 1)]
    gradients = GradientSync(0, 2, fast=fast).gradient_sum(parameters)
    for slot in range(2):
        for parameter in parameters[:-1]:
            # autograd adds to what the sum has left
            new = torch.full_like(parameter, slot + 1.0)
            parameter.grad = new if parameter.grad is None else parameter.grad + new
        gradients.add(Loss(torch.tensor(slot + 1.0), torch.tensor(0.5), None))
    losses = gradients.finish()
    assert [None if p.grad is None else p.grad.tolist() for p in parameters] == [
        [9.0] * 2, [9.0] * 2, [9.0] * 6, [9.0] * 3, None]
    assert [loss.total.item() for loss in losses] == [1.0, 1.0, 2.0, 2.0] and losses[0].prior is None
    # a parameter that is larger than a bucket goes alone
    assert sent == ([] if fast else [4, 6, 4] * 2)


def test_a_missing_gradient_changes_no_bit_of_the_sum() -> None:
    """Not the sign of a zero either, which the moments of an optimizer keep."""
    numbers = torch.tensor([-0.0, 0.0, 1e-45, -3.0, float("inf")])
    assert numbers.add(gradient_sync.NOTHING).view(torch.int32).equal(numbers.view(torch.int32))


def test_a_wait_ends_where_the_watch_finds_the_others_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([False] * 3 + [True])
    answer = SimpleNamespace(is_completed=lambda: next(looks), wait=lambda: None)
    monkeypatch.setattr(distributed, "all_gather", lambda *_, **__: answer)

    def gone() -> None:
        raise ProcessLost("a process is gone")

    with pytest.raises(ProcessLost, match="is gone"):
        GradientSync(0, 2, check_alive=gone).broadcast(1.0)


def test_processes_that_do_not_hold_the_same_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientSync, "all_gather", lambda self, mine: [mine, mine + 2])
    with pytest.raises(StageFailed, match=r"do not agree on the step to resume after: \[3, 5\]"):
        GradientSync(0, 2).check_equal(3, "the step to resume after")
    monkeypatch.setattr(GradientSync, "all_gather", lambda self, mine: [mine, mine])
    GradientSync(0, 2).check_equal(3, "the step to resume after")
