"""One GPU in at most eight minutes: steps, sampling, waits for the device, and agreement with the CPU.

    python tests/bench/gpu.py [--tiny] [--minutes 8] [--json FILE]

Bases have the sizes of the published ones and random weights, so nothing is downloaded. The matmul rate is what this
card reaches in a product of bfloat16 matrices; a step's share of it goes by its counted operations. `shortest` is a
loop of nothing but arithmetic, `encoding` trains as scripts do that encode pictures and prompts in each step. What
would begin too late is left out. --tiny runs all of it on tiny bases, on the CPU where there is no GPU.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])

import torch
from bench.loops import take_step
from bench.rounds import Numbers, write_json
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from train_settings import changed, train_settings

from dbrun.adapters.adapter_layers import matched_layers
from dbrun.adapters.attach import attach
from dbrun.adapters.lora import Lora
from dbrun.models.base import Family, Model, families
from dbrun.models.published_bases import write_published_base
from dbrun.options.optimizers import AdamW
from dbrun.options.precision import Precision
from dbrun.options.schedules import Constant
from dbrun.training.batches import Batch
from dbrun.training.device import channels_last
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import cached_prompts
from dbrun.training.recompute import enable_gradient_checkpointing
from dbrun.training.speedups import speedups

PROMPTS = ("a photo of sks dog", "a photo of a dog")
LOOPS = ("dbrun", "shortest", "encoding")
"""Kinds of training loop."""
LEVERS = ("", "checkpointing", "channels last", "compile", "graph", "layers of peft")
"""`train.gradient_checkpointing`, the layout that the stage takes on a GPU, `train.compile`, `train.graph`, and adapted
layers that are not fused."""


class Case(NamedTuple):
    """Training steps to measure.

    rows: of a micro-batch, half of them class rows where there are several; loop: one of LOOPS; lever: one of LEVERS,
    what is tried to make it faster or smaller.
    """

    family: str
    side: int
    rows: int
    loop: str = "dbrun"
    lever: str = ""

    @property
    def title(self) -> str:
        """The case as the table says it."""
        words = [f"{self.family} {self.side} px, {self.rows} rows"]
        if self.loop != "dbrun":
            words.append(self.loop)
        if self.lever:
            words.append(self.lever)
        return ", ".join(words)


CASES = [Case("sd", 512, 1), Case("sd", 512, 1, "shortest"), Case("sd", 512, 1, "encoding"), Case("sd", 512, 2),
         Case("sd", 512, 4), Case("sd", 512, 8), Case("sd", 512, 8, "shortest"), Case("sd", 512, 8, "encoding"),
         Case("sd", 512, 8, lever="checkpointing"), Case("sd", 512, 8, lever="channels last"),
         Case("sd", 512, 1, lever="graph"), Case("sd", 512, 1, lever="compile"),
         Case("sd", 512, 1, lever="layers of peft"), Case("sdxl", 1024, 1),
         Case("flux", 512, 1), Case("sdxl", 1024, 1, lever="compile"), Case("flux", 512, 1, lever="compile")]
TINY_CASES = [Case("sd", 32, 1), Case("sd", 32, 1, "shortest"), Case("sd", 32, 1, "encoding"),
              *[Case("sd", 32, 2, lever=lever) for lever in LEVERS[1:]], Case("sdxl", 32, 1), Case("flux", 32, 1)]


class Bench:
    """The device, its measured matmul rate, and the bases that are open."""

    def __init__(self, *, tiny: bool, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.steps, side = 20, 8192
        if tiny:
            self.steps, side = 3, 64
        self.rate = self.matmul_rate(side)

    def matmul_rate(self, side: int) -> float:
        """Operations a second of a product of bfloat16 matrices [side, side]."""
        a, b = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * side**3 / self.seconds(lambda: a @ b)

    def seconds(self, compute: Callable[[], object]) -> float:
        """Seconds of one call, after two that warm up."""
        for _ in range(2):
            compute()
        self.wait()
        start = time.perf_counter()
        for _ in range(self.steps):
            compute()
        self.wait()
        return (time.perf_counter() - start) / self.steps

    def wait(self) -> None:
        """Wait until the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def open(self, name: str) -> Model:
        """A base of this family with random weights in bfloat16, and a LoRA of rank 16 on its denoiser's attention."""
        # the base of the case before, whose cycles only the collector frees, must not count
        gc.collect()
        torch.cuda.empty_cache()
        family, folder = families()[name], self.folder / name
        if not folder.exists():
            self.write_base(family, folder)
        model = family.load(folder, device=self.device, dtype=torch.bfloat16)
        # weights of the real size are never written: they are drawn on the device
        model.weights.find_kept = partial(self.random_component, family, folder)
        attach_lora(model, rank=16)
        return model

    def write_base(self, family: Family, folder: Path) -> None:
        """Write the configs and tokenizers of a base; nothing reads its weights."""
        if self.tiny:
            family.write_tiny_base(folder)
        else:
            write_published_base(family.NAME, folder)

    def random_component(self, family: Family, folder: Path, name: str) -> nn.Module:
        """A component with random weights, made on the device."""
        module = family.empty_component(folder, name).to(family.component_dtype(name, torch.bfloat16))
        module.to_empty(device=self.device)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.02)
            for buffer in module.buffers():
                # positions, which an empty buffer does not hold
                buffer.copy_(torch.arange(buffer.numel(), device=self.device).view_as(buffer))
        return module.eval().requires_grad_(False)


def attach_lora(model: Model, rank: int) -> None:
    """Attach a LoRA to the attention of the denoiser."""
    adapter = Lora.model_validate({"type": "lora", "rank": rank, "targets": "attention"})
    attach(model.denoiser, adapter, matched_layers(model.family, model.denoiser, "denoiser", adapter), seed=0)


def make_trainer(model: Model, precision: Precision) -> Trainer:
    """A trainer of the adapter over cached prompts."""
    settings = train_settings(steps=10**6, learning_rate=1e-4, accumulation=1, max_grad_norm=1.0, seed=0,
                              optimizer=AdamW(), schedule=Constant(), precision=precision, prior_weight=1.0)
    with torch.no_grad():
        encoded = model.encode_prompts(PROMPTS)
    return Trainer(model, ("denoiser",), cached_prompts(model, encoded), settings)


def make_batch(model: Model, side: int, rows: int) -> Batch:
    """A micro-batch of encoded noise, in CPU memory."""
    draw = torch.Generator().manual_seed(0)

    def randn(purpose: str, shape: Sequence[int]) -> Tensor:
        return torch.randn(rows, *shape, generator=draw)

    with torch.no_grad():
        stored = model.encode_images(torch.rand(rows, 3, side, side, generator=draw)).cpu()
    x0, extra = model.sample_x0(stored, randn, model.family.class_labels[0])
    instances = max(1, rows // 2)
    prompts = (0,) * instances + (1,) * (rows - instances)
    noise = torch.randn(x0.shape, generator=draw)
    return Batch(x0, noise, torch.randint(1000, (rows,), generator=draw), prompts, instances, extra)


def dbrun_step(trainer: Trainer, batch: Batch) -> Callable[[], object]:
    """Function that does a step of dbrun's trainer."""
    return lambda: trainer.step([batch])


def encoding_step(trainer: Trainer, batch: Batch, side: int) -> Callable[[], object]:
    """Function that does the same step after encoding the pictures and the prompt of its rows."""
    model, rows = trainer.model, len(batch.x0)

    def step() -> None:
        with torch.no_grad():
            model.encode_prompts(PROMPTS[:1])
            model.encode_images(torch.zeros(rows, 3, side, side))
        trainer.step([batch])

    return step


def shortest_step(trainer: Trainer, batch: Batch) -> Callable[[], object]:
    """Function that does the arithmetic of a step on one noisy sample that is there already, and reads its loss."""
    model, device = trainer.model, trainer.model.device
    process = model.diffusion_process()
    x0, noise = batch.x0.to(device), batch.noise.to(device)
    x_t, target = process.add_noise(x0, noise, batch.t), process.target(x0, noise, batch.t)
    extra = {name: tensor.to(device) for name, tensor in batch.extra_conditions.items()}
    condition = {**trainer.prompt_encoder(batch.prompts), **extra}
    t = batch.t.to(device)
    parameters = [parameter for parameter in model.denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> float:
        with trainer.autocast():
            pred = model.predict(x_t, t, condition)
        loss = (pred.float() - target).square().mean()
        return take_step(loss, parameters, optimizer)

    return step


def train_case(bench: Bench, case: Case) -> Numbers:
    """Milliseconds of a step, share of the card's rate, and on a GPU peak memory and waits for the device."""
    model = bench.open(case.family)
    trainer, batch = make_trainer(model, "bf16"), make_batch(model, case.side, case.rows)
    if case.lever == "checkpointing":
        enable_gradient_checkpointing(model)
    step = dbrun_step(trainer, batch)
    if case.loop == "shortest":
        step = shortest_step(trainer, batch)
    if case.loop == "encoding":
        step = encoding_step(trainer, batch, case.side)
    else:
        model.release(*encoders(model.family))
    # of a plain step: what a graph computes is not seen
    with FlopCounterMode(display=False) as counter:
        step()
    on_gpu = bench.device.type == "cuda"
    with ExitStack() as stack:
        if case.lever == "channels last":
            stack.enter_context(channels_last(model.denoiser))
        settings = changed(trainer.settings, compile=case.lever == "compile", graph=case.lever == "graph")
        trainer.settings, trainer.speedups = settings, stack.enter_context(speedups(model, settings, print))
        if case.lever != "layers of peft":
            stack.enter_context(trainer.fused_layers())
        for _ in range(2):
            step()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = bench.seconds(step)
        numbers = {"ms a step": 1e3 * seconds,
                   "% of matmul rate": 100 * counter.get_total_flops() / seconds / bench.rate}
        if on_gpu:
            numbers["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
            numbers["waits a step"] = count_waits(step)
    return numbers


def encoders(family: Family) -> list[str]:
    """Names of the components that a training over cached latents and prompts can do without."""
    names = list(family.text_encoders)
    if family.autoencoder:
        names.append(family.autoencoder)
    return names


def count_waits(step: Callable[[], object]) -> int:
    """How often the host waits for the GPU in a step, as torch warns of it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def sampling(bench: Bench) -> Numbers:
    """Pictures a second, one at a time and in the block that dbrun draws."""
    model = bench.open("sd")
    side, steps = 512, 20
    if bench.tiny:
        side, steps = 32, 2
    with torch.no_grad():
        conditions = model.sampling_conditions(PROMPTS[1:])[PROMPTS[1]]
    numbers: dict[str, float] = {}
    for size in (1, model.family.block_size(side)):
        start = time.perf_counter()
        model.generate_block([conditions] * size, range(size), steps=steps, guidance=5.0, resolution=side)
        bench.wait()
        numbers[f"pictures a second, {size} at once"] = size / (time.perf_counter() - start)
    return numbers


def parity(bench: Bench) -> Numbers:
    """Largest relative difference between the adapters after three steps on the CPU and on the device, in fp32."""
    family, folder = families()["sd"], bench.folder / "parity"
    family.write_tiny_base(folder)
    trained: list[list[Tensor]] = []
    for device in (torch.device("cpu"), bench.device):
        model = family.load(folder, device=device, dtype=torch.float32)
        attach_lora(model, rank=2)
        trainer, batch = make_trainer(model, "fp32"), make_batch(model, 32, 2)
        with trainer.fused_layers():
            for _ in range(3):
                trainer.step([batch])
        trained.append([weight.detach().cpu() for weight in trainer.parameters])
    differences: list[float] = []
    for on_cpu, on_device in zip(*trained, strict=True):
        differences.append(float((on_cpu - on_device).norm() / on_cpu.norm().clamp_min(1e-12)))
    return {"relative difference, CPU and device": max(differences)}


def all_work(bench: Bench) -> dict[str, Callable[[], Numbers]]:
    """Name of each measurement -> function that makes it, in their order."""
    work: dict[str, Callable[[], Numbers]] = {"parity": partial(parity, bench), "sampling": partial(sampling, bench)}
    cases = CASES
    if bench.tiny:
        cases = TINY_CASES
    for case in cases:
        work[case.title] = partial(train_case, bench, case)
    return work


def main() -> None:
    """Measure until the time is over, and print each table line as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny bases")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--json", type=Path, help="write the numbers into this file")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(tiny=given.tiny, folder=Path(place))
        print(f"{bench.device}: {bench.rate / 1e12:.3f} TFLOP/s in bfloat16 products", flush=True)
        found: dict[str, Numbers] = {str(bench.device): {"matmul TFLOP/s": bench.rate / 1e12}}
        for name, measure in all_work(bench).items():
            # a case takes a minute at most
            if time.monotonic() > end - 60:
                print(f"{name}: left out, the time is over", flush=True)
                continue
            try:
                found[name] = measure()
            except torch.OutOfMemoryError:
                print(f"{name}: left out, the card has too little memory", flush=True)
                continue
            text = ", ".join(f"{what} {number:.4g}" for what, number in found[name].items())
            print(f"{name:42} {text}", flush=True)
            write_json(found, given.json)


if __name__ == "__main__":
    main()
