"""Exchange of gradients between processes of this machine: seconds a step, and whether the sums have the same bytes.

    python tests/bench/exchange.py [--processes 4] [--megabytes 93] [--slots 1] [--rounds 3] [--json FILE]

93 MB are the gradients of a LoRA of rank 16 on SDXL's attention. Compared are a gather of all whole gradients, which
each process adds up in slot order, and `launch.reduce: exact` and `fast`. --slots: micro-batches of each process in a
step. Wall seconds, from when all processes have begun to when the last has ended: with fewer cores than processes they
take turns.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import Queue

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])

import torch
from bench.rounds import Numbers, arguments, in_turns, print_table, write_json
from torch import Tensor, distributed, nn

from dbrun.diffusion.losses import Loss
from dbrun.training.gradient_sync import GradientSum, GradientSync

TENSORS = 1120
"""Parameters that the gradients belong to."""
LOSS = Loss(torch.tensor(1.0), torch.tensor(1.0), None)


class GatheredSum(GradientSum):
    """The sum in slot order of whole gradients, which every process gathers from all."""

    def __init__(self, parameters: Sequence[nn.Parameter], gradient_sync: GradientSync) -> None:
        super().__init__()
        self.parameters, self.gradient_sync = parameters, gradient_sync
        self.total: Tensor | None = None

    def add(self, loss: Loss) -> None:
        """Add one slot of every process, by rank."""
        mine = torch.cat([gradient(parameter).reshape(-1) for parameter in self.parameters])
        for theirs in self.gradient_sync.all_gather(mine):
            self.total = theirs if self.total is None else self.total.add_(theirs)
        for parameter in self.parameters:
            parameter.grad = None

    def finish(self) -> list[Loss]:
        """Set each parameter's `grad`."""
        assert self.total is not None
        parts = torch.split(self.total, [parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return self.losses


def gradient(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient."""
    assert parameter.grad is not None
    return parameter.grad


def make_sum(method: str, parameters: Sequence[nn.Parameter], rank: int, size: int) -> GradientSum:
    """An empty sum. method: gather, exact or fast."""
    sync = GradientSync(rank, size, fast=method == "fast")
    return GatheredSum(parameters, sync) if method == "gather" else sync.gradient_sum(parameters)


def exchange(method: str, parameters: Sequence[nn.Parameter], made: Sequence[Sequence[Tensor]], rank: int,
             size: int) -> None:
    """Add up the gradients of a step. made: for each slot of this process its gradients."""
    total = make_sum(method, parameters, rank, size)
    for gradients in made:
        for parameter, new in zip(parameters, gradients, strict=True):
            # as autograd does: it adds to what is there
            parameter.grad = new if parameter.grad is None else parameter.grad + new
        total.add(LOSS)
    total.finish()


def member(method: str, folder: Path, rank: int, size: int, numbers: int, slots: int, results: Queue[object]) -> None:
    """One of the processes: puts (seconds, SHA-256 of the sum) of the fastest of three steps into `results`."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    source = torch.Generator().manual_seed(rank)
    parameters = [nn.Parameter(torch.zeros(numbers // TENSORS)) for _ in range(TENSORS)]
    shapes = [parameter.shape for parameter in parameters] * slots
    drawn = [torch.randn(shape, generator=source) for shape in shapes]
    made = [drawn[slot * TENSORS:(slot + 1) * TENSORS] for slot in range(slots)]
    seconds: list[float] = []
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = None
        distributed.barrier()
        start = time.perf_counter()
        exchange(method, parameters, made, rank, size)
        distributed.barrier()
        seconds.append(time.perf_counter() - start)
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(gradient(parameter).numpy().tobytes())
    results.put((min(seconds), digest.hexdigest()))
    distributed.destroy_process_group()


def measure(method: str, size: int, megabytes: float, slots: int) -> Mapping[str, object]:
    """Seconds of the slowest process, and the digest of the sum. Exits where the processes have different sums."""
    processes = multiprocessing.get_context("spawn")
    results = processes.Queue()
    with tempfile.TemporaryDirectory() as folder:
        words = (size, int(megabytes * 1e6 / 4), slots, results)
        members = [processes.Process(target=member, args=(method, Path(folder), rank, *words)) for rank in range(size)]
        for one in members:
            one.start()
        found = [results.get(timeout=600) for _ in members]
        for one in members:
            one.join()
    if len({digest for _, digest in found}) > 1:
        raise SystemExit(f"{method}: the processes have different sums")
    return {"seconds": max(seconds for seconds, _ in found), "digest": found[0][1]}


def main() -> None:
    """Measure, and print a table; say whether gather and exact give the same bytes."""
    parser = arguments(__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=93)
    parser.add_argument("--slots", type=int, default=1)
    given = parser.parse_args()
    digests: dict[str, object] = {}

    def seconds(method: str) -> Numbers:
        found = measure(method, given.processes, given.megabytes, given.slots)
        digests[method] = found["digest"]
        return {"wall s a step": float(str(found["seconds"]))}

    table = in_turns({method: partial(seconds, method) for method in ("gather", "exact", "fast")}, given.rounds)
    print_table(table)
    print(f"gather and exact: {'the same bytes' if digests['gather'] == digests['exact'] else 'DIFFERENT BYTES'}")
    write_json(table, given.json)


if __name__ == "__main__":
    main()
