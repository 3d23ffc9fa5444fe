"""Is the base held in the numbers that the recipe and the device ask for?"""

import pytest
import torch

from dbrun.errors import StageFailed
from dbrun.plan.cache_key import make_stage_key
from dbrun.stages.base import RuntimeOptions, StageContext, stages
from dbrun.stages.export import ExportParams
from dbrun.stages.generate_priors import PriorParams
from dbrun.stages.sources import Numerics
from dbrun.stages.support.base_loading import load_base, sampling_precision
from dbrun.store.canonical import to_json_value
from dbrun.training.device import deterministic_algorithms


@pytest.mark.parametrize(("precision", "device", "drawn", "named"), [
    ("fp16", "cuda", "fp16", {}), ("bf16", "cuda", "bf16", {}), ("fp32", "cuda", "fp32", {}),
    ("bf16", "mps", "bf16", {}), ("fp16", "cpu", "fp32", {}), ("fp32", "cpu", "fp32", {}),
    ("bf16", "cpu", "bf16", {"drawing_precision": "bf16"})])
def test_pictures_are_drawn_in_the_recipes_precision_and_keyed_by_it(precision, device, drawn, named) -> None:
    """On a CPU they were once drawn in 32 bits whatever the recipe said: 16 bits are another key, 32 bits the same."""
    numerics = Numerics(device, 0)
    assert sampling_precision(precision, numerics) == drawn
    params = {"generate-priors": PriorParams("a dog", 1, 2, 1.0, 32, precision, 0),
              "export": ExportParams((), {}, None, (), 2, 1.0, 0, 32, precision)}
    for name, values in params.items():
        document = make_stage_key(stages()[name], values, {}, numerics).document
        threads = {"threads": 0} if device == "cpu" else {}
        assert document["numerics"] == {"device": device, **threads, **named}


@pytest.mark.parametrize("name", ["generate-priors", "preprocess", "train", "export"])
def test_deterministic_arithmetic_has_a_key_of_its_own_and_the_usual_one_keeps_its_key(name, bench, recipe) -> None:
    sources, numerics, stage = bench.sources(recipe()), Numerics("cpu", 1), stages()[name]
    plain, also_plain, asked = (stage.params(recipe(train=train), sources)
                                for train in ({}, {"deterministic": False}, {"deterministic": True}))
    assert plain == also_plain and "deterministic" not in to_json_value(plain)
    changed = {key for key, value in to_json_value(asked).items() if value != to_json_value(plain).get(key)}
    assert asked.deterministic and changed - {"recipe"} == {"deterministic"}
    inputs = dict.fromkeys(stage.needs, "0")
    for before, after in zip(stage.item_keys(plain, inputs, numerics), stage.item_keys(asked, inputs, numerics),
                             strict=True):
        assert after == {**before, "deterministic": True}


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


def test_deterministic_algorithms_are_on_for_a_stage_that_asks_for_them_and_then_as_before(bench, recipe) -> None:
    bench.run("load", recipe())
    on = torch.are_deterministic_algorithms_enabled
    context = job(bench, bench.base)
    load_base(context, "fp32", deterministic=True)
    assert on()
    context.resident.stage_done()
    assert not on()
    # of the process around: in no cache key, so it must not count either
    with deterministic_algorithms(True):
        load_base(context, "fp32")
        assert not on()
        context.resident.close_failed()
        assert on()
    assert not on()


def test_a_base_that_is_gone_is_said(bench, recipe) -> None:
    bench.run("load", recipe())
    with pytest.raises(StageFailed, match="gone"):
        load_base(job(bench, None), "fp32")
