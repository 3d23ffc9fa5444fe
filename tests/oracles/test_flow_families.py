"""Does every family of flow matching prepare, encode and predict as diffusers' pipelines do? At unequal sides."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import pytest
import torch
from flow_pipelines import FLOW_PIPELINES, FlowPipeline
from PIL import Image
from torch import Tensor

from dbrun.models import flux, flux2_klein, krea2, qwen_image, z_image
from dbrun.models.base import Family, Model, families
from dbrun.models.chat_prompts import ChatTokens
from dbrun.models.chroma import ChromaModel
from dbrun.models.flux import FluxModel
from dbrun.models.flux2_klein import Flux2KleinModel
from dbrun.models.krea2 import Krea2Model
from dbrun.models.latents import LatentModel
from dbrun.models.qwen_image import QwenImageModel
from dbrun.models.sd3 import StableDiffusion3Model
from dbrun.models.z_image import ZImageModel
from dbrun.stages.preprocess import as_tensor

FAMILIES = {name: family for name, family in families().items() if family.process == "flow"}
PROMPTS = ("a photo of sks dog", "a dog on the grass", "")
WIDTH, HEIGHT = 48, 32
Cases = Callable[[str], Path]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """`cases(name)`: the folder of a tiny base of a family, written once."""
    made: dict[str, Path] = {}

    def case(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("oracles") / name
            FAMILIES[name].write_tiny_base(made[name])
        return made[name]

    return case


def load(family: Family, folder: Path) -> Model:
    return family.load(folder, device=torch.device("cpu"), dtype=torch.float32)


def picture() -> Image.Image:
    values = torch.randint(256, (HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def check_prompts(model: Model, oracle: FlowPipeline) -> None:
    with torch.no_grad():
        for prompt in PROMPTS:
            theirs = model.pipeline.encode_prompt(prompt, device="cpu", **oracle.encode)
            (ours,) = model.encode_prompts([prompt])
            assert ours.keys() == oracle.results.keys()
            for name, place in oracle.results.items():
                expected = theirs[place][0]
                if oracle.mask is not None:
                    expected = expected[theirs[oracle.mask][0].bool()]
                assert torch.equal(ours[name], expected), (prompt, name)


def check_latents(model: Model, oracle: FlowPipeline) -> None:
    """Latents and their noising, both with noise of one generator, as image-to-image begins."""
    # its own timesteps are shifted; the grid of training is not
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    components = {name: part for name, part in model.pipeline.components.items() if part is not None}
    pipeline = oracle.image_to_image(**{**components, "scheduler": scheduler})
    pixels = pipeline.image_processor.preprocess(picture())
    assert torch.equal(pixels, as_tensor(picture())[None])
    t = 321
    with torch.no_grad():
        theirs = oracle.noised(pipeline, pixels, scheduler.timesteps[999 - t:1000 - t],
                               torch.Generator().manual_seed(9))
        generator = torch.Generator().manual_seed(9)
        x0 = model.sample_x0(model.encode_images(pixels),
                             lambda _, shape: torch.randn(1, *shape, generator=generator), "none").x0
        noise = torch.randn(x0.shape, generator=generator)
        ours = model.diffusion_process().add_noise(x0, noise, torch.tensor([t]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def check_prediction(model: Model, oracle: FlowPipeline) -> None:
    """The second question of the pipeline, asked again at the next timestep of the grid of training."""
    calls: list[tuple[Any, Any]] = []
    pipeline = model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    denoiser: Any = model.denoiser
    handle = denoiser.register_forward_hook(lambda module, args, kwargs, output: calls.append((args, kwargs)),
                                            with_kwargs=True)
    pipeline(prompt=PROMPTS[0], num_inference_steps=3, width=WIDTH, height=HEIGHT,
             generator=torch.Generator().manual_seed(2), **{"guidance_scale": 1.0, **oracle.call})
    handle.remove()
    args, keywords = calls[1]
    # by name, however the pipeline passed them
    asked = inspect.signature(denoiser.forward).bind(*args, **keywords).arguments
    t = torch.tensor([round(oracle.sigma(asked) * 1000) - 1])
    factor = HEIGHT // model.encode_images(torch.zeros(1, 3, HEIGHT, WIDTH)).shape[-2]
    height, width = HEIGHT // factor, WIDTH // factor
    with torch.no_grad():
        sigma = (t + 1).float() / 1000
        theirs = oracle.prediction(denoiser(**{**asked, **oracle.mended(asked), **oracle.at(sigma)}), height, width)
        x_t = oracle.x_t(asked, height, width)
        ours = model.predict(x_t, t, model.collate_conditions(model.encode_prompts(PROMPTS[:1])))
    assert ours.shape == x_t.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def check_shift(model: Model, oracle: FlowPipeline) -> None:
    """The shift that is drawn with: what the pipeline tells its scheduler for a picture of this size, or its own."""
    pipeline, told = model.pipeline, dict[str, Any]()
    pipeline.set_progress_bar_config(disable=True)
    scheduler = pipeline.scheduler
    set_timesteps = scheduler.set_timesteps

    # the pipeline reads the signature
    @functools.wraps(set_timesteps)
    def watched(*arguments: Any, **keywords: Any) -> None:
        told.update(keywords)
        set_timesteps(*arguments, **keywords)

    with patch.object(scheduler, "set_timesteps", watched):
        pipeline(prompt=PROMPTS[0], num_inference_steps=1, width=WIDTH, height=HEIGHT,
                 **{"guidance_scale": 1.0, **oracle.call})
    theirs = scheduler.shift
    if scheduler.config.use_dynamic_shifting:
        theirs = math.exp(told["mu"])
    stored = model.encode_images(torch.zeros(1, 3, HEIGHT, WIDTH))
    shape = model.sample_x0(stored, lambda _, shape: torch.zeros(1, *shape), "none").x0.shape[1:]
    assert model.timestep_shift(None, shape) == pytest.approx(theirs, rel=1e-12)


def test_every_family_of_flow_matching_has_an_oracle() -> None:
    assert FLOW_PIPELINES.keys() == FAMILIES.keys()


@pytest.mark.parametrize("name", sorted(name for name in FAMILIES if not FLOW_PIPELINES[name].shift_of_sampling))
def test_the_shift_is_the_pipelines(cases: Cases, name: str) -> None:
    check_shift(load(FAMILIES[name], cases(name)), FLOW_PIPELINES[name])


@pytest.mark.parametrize("check", [check_prompts, check_latents, check_prediction], ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_it_is_what_the_pipeline_does(cases: Cases, name: str, check: Callable[[Model, FlowPipeline], None]) -> None:
    check(load(FAMILIES[name], cases(name)), FLOW_PIPELINES[name])


def _swapped_ids(height: int, width: int) -> Tensor:
    return RIGHT_IDS(height, width)[:, [0, 2, 1]]


def _first_mark(self: FluxModel, prompts: Any) -> Tensor:
    tokens = self.component("tokenizer")(list(prompts), padding="max_length", return_tensors="pt")
    first: Tensor = self.component("text_encoder")(tokens.input_ids).last_hidden_state[:, 0]
    return first


def _unpadded(self: FluxModel, prompts: Any) -> Tensor:
    tokens = self.component("tokenizer_2")(list(prompts), padding="max_length", return_tensors="pt")
    states: Tensor = self.component("text_encoder_2")(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    return states


def _turned(self: Flux2KleinModel, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
    return RIGHT_KLEIN(self, x_t.mT, t, condition).mT


def _without_epsilon(self: Flux2KleinModel) -> tuple[Tensor, Tensor]:
    norm = self.component("vae").bn
    return norm.running_mean[:, None, None], norm.running_var.sqrt()[:, None, None]


def _other_thinking(tokenizer: Any, prompts: Any, *, thinking: bool) -> Any:
    return RIGHT_CHAT(tokenizer, prompts, thinking=not thinking)


def _without_padding(self: ChromaModel, text_encoder: str, prompts: Any) -> Any:
    return [{"hidden": output["hidden"][:-1]} for output in RIGHT_CHROMA(self, text_encoder, prompts)]


def _other_clip_first(self: StableDiffusion3Model, prompt: str, outputs: Any) -> Any:
    first, second, t5 = outputs
    turned = {first: outputs[second], second: outputs[first], t5: outputs[t5]}
    return RIGHT_JOIN(self, prompt, turned)


def _turned_qwen(self: QwenImageModel, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
    return RIGHT_QWEN(self, x_t.mT, t, condition).mT


def _places_of_padding(self: Krea2Model, prompts: Any) -> Any:
    ids, mask = RIGHT_KREA_TOKENS(self, prompts)
    return ChatTokens(ids, [[1] * len(row) for row in mask])


def _turned_krea(self: Krea2Model, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
    return RIGHT_KREA(self, x_t.mT, t, condition).mT


RIGHT_KREA, RIGHT_KREA_TOKENS = Krea2Model.predict, Krea2Model._tokenize
RIGHT_CHROMA, RIGHT_CHROMA_PREDICT = ChromaModel.encode_with, ChromaModel._predict
RIGHT_JOIN = StableDiffusion3Model.join_outputs
RIGHT_QWEN = QwenImageModel.predict
RIGHT_KLEIN, RIGHT_Z_IMAGE, RIGHT_CHAT = Flux2KleinModel.predict, ZImageModel.predict, z_image.tokenize_chat
RIGHT_IDS, RIGHT_PREDICT, RIGHT_SIGMA = flux.position_ids, FluxModel.predict, FluxModel.sigma
Mutant = tuple[Any, str, Any, Callable[[Model, FlowPipeline], None]]
MUTANTS: dict[str, Mutant] = {
    "no shift of latents": (LatentModel, "normalise", lambda self, z: z * self._scaling_factor, check_latents),
    "the other sign": (FluxModel, "predict", lambda self, *asked: -RIGHT_PREDICT(self, *asked), check_prediction),
    "rows for columns": (flux, "position_ids", _swapped_ids, check_prediction),
    "packed across": (flux, "pack", lambda x: x.flatten(2).transpose(1, 2).reshape(len(x), -1, 4 * x.shape[1]),
                      check_prediction),
    "tokens of one pixel": (FluxModel, "token_count", lambda self, shape: math.prod(shape[-2:]), check_shift),
    "one timestep off": (FluxModel, "sigma", lambda self, t: RIGHT_SIGMA(self, t - 1), check_prediction),
    "CLIP at its first mark": (FluxModel, "_read_clip", _first_mark, check_prompts),
    "T5 without padding": (FluxModel, "_read_t5", _unpadded, check_prompts),
}
OTHER_MUTANTS: dict[tuple[str, str], Mutant] = {
    ("chroma", "no place of padding"): (ChromaModel, "encode_with", _without_padding, check_prompts),
    ("chroma", "no word"): (
        ChromaModel, "_predict", lambda self, x_t, t, hidden: RIGHT_CHROMA_PREDICT(self, x_t, t, hidden[:, -1:]),
        check_prediction),
    ("flux2_klein", "no epsilon in the batch norm"): (Flux2KleinModel, "_statistics", _without_epsilon, check_latents),
    ("flux2_klein", "rows for columns"): (Flux2KleinModel, "predict", _turned, check_prediction),
    ("flux2_klein", "one layer of Qwen3 earlier"): (flux2_klein, "TEXT_LAYERS", (8, 17, 26), check_prompts),
    ("flux2_klein", "the template of thinking"): (flux2_klein, "tokenize_chat", _other_thinking, check_prompts),
    ("krea2", "rows for columns"): (Krea2Model, "predict", _turned_krea, check_prediction),
    ("krea2", "the padding read"): (Krea2Model, "_tokenize", _places_of_padding, check_prompts),
    ("krea2", "the end of the template at the end"): (krea2, "TEMPLATE_END", "", check_prompts),
    ("sd3", "the CLIPs the other way round"): (StableDiffusion3Model, "join_outputs", _other_clip_first, check_prompts),
    ("sd3", "noise levels, not thousandths"): (
        StableDiffusion3Model, "sigma", lambda self, t: RIGHT_SIGMA(self, t) / 1000, check_prediction),
    ("qwen_image", "rows for columns"): (QwenImageModel, "predict", _turned_qwen, check_prediction),
    ("qwen_image", "latents about their mean"): (
        QwenImageModel, "normalise", lambda self, z: z / self._statistics[1], check_latents),
    ("qwen_image", "a token of the template"): (qwen_image, "START_TOKENS", 33, check_prompts),
    ("z_image", "the other sign"): (ZImageModel, "predict", lambda self, *asked: -RIGHT_Z_IMAGE(self, *asked),
                                    check_prediction),
    ("z_image", "time from the picture to noise"): (
        ZImageModel, "sigma", lambda self, t: 1.0 - RIGHT_SIGMA(self, t), check_prediction),
    ("z_image", "latents that are drawn"): (ZImageModel, "takes_mean", False, check_latents),
    ("z_image", "the template without thinking"): (z_image, "tokenize_chat", _other_thinking, check_prompts),
}
ALL_MUTANTS = {**{("flux", name): mutant for name, mutant in MUTANTS.items()}, **OTHER_MUTANTS}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mutant"), ALL_MUTANTS)
def test_a_mutant_is_caught(cases: Cases, family: str, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong, check = ALL_MUTANTS[family, mutant]
    monkeypatch.setattr(owner, attribute, wrong)
    with pytest.raises(AssertionError):
        check(load(FAMILIES[family], cases(family)), FLOW_PIPELINES[family])


@pytest.mark.slow
def test_another_guidance_is_caught(cases: Cases) -> None:
    model = load(FAMILIES["flux"], cases("flux"))
    model.guidance = 3.5
    with pytest.raises(AssertionError):
        check_prediction(model, FLOW_PIPELINES["flux"])


@pytest.mark.slow
def test_the_padding_that_chroma_leaves_out_is_read_by_the_pipeline(cases: Cases) -> None:
    """The day this fails, diffusers masks it, and `mended` of `flow_pipelines.py` may go."""
    with pytest.raises(AssertionError):
        check_prediction(load(FAMILIES["chroma"], cases("chroma")),
                         replace(FLOW_PIPELINES["chroma"], mended=lambda asked: {}))
