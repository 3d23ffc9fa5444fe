"""dbrun's training loop and the shortest one that does the same arithmetic, by turns in one process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import torch
from bench.rounds import Numbers
from picture_sets import picture_set
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from train_settings import train_settings

from dbrun.adapters.adapter_layers import matched_layers
from dbrun.adapters.attach import attach
from dbrun.adapters.lora import Lora
from dbrun.embedded import weights_path
from dbrun.models.base import Model, families
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.training.batches import Batches
from dbrun.training.fused_lora import fused_lora
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import cached_prompts

SIZES = {"1 row": (1, 0), "4 rows": (4, 0), "4 + 4 rows": (4, 4)}
"""Name of a micro-batch -> its instance rows, and as many class rows or none: halves of a micro-batch are equal."""
BLOCK = 20
"""Steps that a loop does before it is the other's turn."""
MATRIX = 1024
"""Side of the square matrices whose product shows what a core can do."""
PROMPTS = ("a photo of sks dog", "a photo of a dog")
PICTURES = 8


def load_model() -> Model:
    """The embedded base in fp32 on the CPU, with a LoRA of rank 4 on the attention of its denoiser."""
    family = families()["sd"]
    model = family.load(weights_path(), device=torch.device("cpu"), dtype=torch.float32)
    adapter = Lora.model_validate({"type": "lora", "rank": 4, "targets": "attention"})
    attach(model.denoiser, adapter, matched_layers(family, model.denoiser, "denoiser", adapter), seed=0)
    return model


def dbrun_loop(rows: int, class_rows: int) -> Callable[[], object]:
    """Function that does the next step of dbrun's loop, with its draws and its log of the numbers."""
    model = load_model()
    settings = train_settings(steps=10**6, learning_rate=1e-4, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                              schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)
    with torch.no_grad():
        conditions = model.encode_prompts(PROMPTS)
    stored = encoded_pictures(model)
    halves = [picture_set("instance", list(stored), [0] * PICTURES)]
    if class_rows:
        halves.append(picture_set("class", list(stored), [1] * PICTURES))
    labels = model.family.class_labels[0]
    batches = Batches(halves, 0, rows, 1000, lambda latents, randn: model.sample_x0(latents, randn, labels))
    steps = Trainer(model, ("denoiser",), cached_prompts(model, conditions), settings).run(batches)
    return lambda: next(steps)


def shortest_loop(rows: int, class_rows: int) -> Callable[[], object]:
    """Function that does the next step of a loop with the same arithmetic, and nothing that is not arithmetic."""
    model = load_model()
    with torch.no_grad():
        subject, other = model.encode_prompts(PROMPTS)
    moments = encoded_pictures(model)[:1].expand(rows + class_rows, -1, -1, -1)
    hidden = torch.stack([subject["hidden"]] * rows + [other["hidden"]] * class_rows)
    alpha_bar = model.diffusion_process().alpha_bar.float()
    denoiser = model.denoiser.train()
    parameters = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> float:
        mean, deviation = moments.chunk(2, dim=1)
        x0 = mean + deviation * torch.randn_like(mean)
        noise, t = torch.randn_like(x0), torch.randint(1000, (len(x0),))
        a, s = alpha_bar[t].sqrt().view(-1, 1, 1, 1), (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
        # the embedded base predicts v
        error = (denoiser(a * x0 + s * noise, t, hidden).sample - (a * noise - s * x0)).square()
        loss = error[:rows].mean()
        if class_rows:
            loss = loss + error[rows:].mean()
        return take_step(loss, parameters, optimizer)

    def steps() -> Iterator[float]:
        with fused_lora([denoiser]):
            while True:
                yield step()

    loop = steps()
    return lambda: next(loop)


def take_step(loss: Tensor, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> float:
    """Value of the loss, after an update of the parameters with clipped gradients."""
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def encoded_pictures(model: Model) -> Tensor:
    """Latents of noise as they are stored, [PICTURES, 2 C, h, w]: mean and deviation."""
    with torch.no_grad():
        return model.encode_images(torch.rand(PICTURES, 3, 64, 64) * 2 - 1)


def measure_loops(blocks: int) -> dict[str, list[Numbers]]:
    """Loop -> its numbers in each block: CPU milliseconds of a step at each size, and the share of the matmul rate.

    Call it with one thread.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for size, (rows, class_rows) in SIZES.items():
        loops = {"shortest loop": shortest_loop(rows, class_rows), "dbrun": dbrun_loop(rows, class_rows)}
        operations = count_operations(loops["shortest loop"])
        # the first block makes the optimizer's state, and is not counted
        for step in loops.values():
            block_seconds(step)
        for block in range(blocks):
            rate = matmul_rate()
            for name, step in loops.items():
                seconds = block_seconds(step)
                rounds = found.setdefault(name, [{} for _ in range(blocks)])
                rounds[block][f"a step of {size}, CPU ms"] = 1e3 * seconds
                rounds[block][f"a step of {size}, % of matmul rate"] = 100 * operations / seconds / rate
                text = f"block {block + 1} of {blocks}, {size}: {name} {1e3 * seconds:.1f} ms"
                print(text, file=sys.stderr, flush=True)
    return found


def block_seconds(step: Callable[[], object]) -> float:
    """CPU seconds of a step, the mean of a block."""
    start = time.process_time()
    for _ in range(BLOCK):
        step()
    return (time.process_time() - start) / BLOCK


def matmul_rate() -> float:
    """Operations that this core does in a CPU second of the product of two fp32 matrices."""
    a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    # the first product packs and warms up
    a @ b
    count = 5
    start = time.process_time()
    for _ in range(count):
        a @ b
    return count * 2 * MATRIX**3 / (time.process_time() - start)


def count_operations(step: Callable[[], object]) -> int:
    """Floating-point operations of a step in its convolutions and matrix products, forward and backward."""
    # torch counts no fused attention on a CPU, so here it is made of products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()
