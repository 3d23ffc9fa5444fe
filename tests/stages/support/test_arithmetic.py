"""Is the base held in the numbers that the recipe and the device ask for?"""

import pytest
import torch

from dbrun.errors import StageFailed
from dbrun.stages.base import RuntimeOptions, StageContext
from dbrun.stages.sources import Numerics
from dbrun.stages.support.base_loading import load_base, sampling_precision


@pytest.mark.parametrize(("precision", "device", "drawn"), [
    ("fp16", "cuda", "fp16"), ("bf16", "cuda", "bf16"), ("fp32", "cuda", "fp32"), ("bf16", "mps", "bf16"),
    ("fp16", "cpu", "fp32"), ("bf16", "cpu", "fp32")])
def test_pictures_are_drawn_in_32_bits_on_a_cpu_only(precision, device, drawn) -> None:
    assert sampling_precision(precision, Numerics(device, 0)) == drawn


def job(bench, base):
    return StageContext("adapt", None, Numerics("cpu", 1), bench.artifacts, bench.home, bench.home, {}, base,
                        bench.items, RuntimeOptions(1, 1), bench.events.append, lambda: 0)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_whole_base_has_the_precision(bench, recipe, precision, dtype) -> None:
    bench.run("load", recipe())
    model = load_base(job(bench, bench.base), precision)
    assert {p.dtype for p in model.module("denoiser").parameters()} == {dtype}
    assert {p.dtype for p in model.pipeline.vae.parameters()} == {dtype}


def test_the_thread_count_is_the_recipes(bench, recipe) -> None:
    bench.run("load", recipe())
    torch.set_num_threads(2)
    load_base(job(bench, bench.base), "fp32")
    assert torch.get_num_threads() == 1


def test_a_base_that_is_gone_is_said(bench, recipe) -> None:
    bench.run("load", recipe())
    with pytest.raises(StageFailed, match="gone"):
        load_base(job(bench, None), "fp32")
