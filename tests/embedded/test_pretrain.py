"""Does a stopped pre-training go on as if it had not been stopped, and does its export load?"""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dbrun.embedded.making import autoencoder, denoiser
from dbrun.embedded.making.architecture import LATENT_CHANNELS, TINY, Denoiser, build_vae
from dbrun.embedded.making.captions import caption_words
from dbrun.embedded.making.course import FINAL_RATE_SHARE, PEAK_LEARNING_RATE, WARMUP_STEPS, Phase, Progress, run_phase
from dbrun.embedded.making.export import write_manifest
from dbrun.embedded.making.names import REFERENCE_WORDS
from dbrun.embedded.making.objectives import alpha_bar_schedule, noisy_and_velocity, v_loss
from dbrun.embedded.making.pretrain import manifest_command, pretrain
from dbrun.embedded.making.sitting import PretrainSettings, train_phase
from dbrun.embedded.making.tokenizer import build_tokenizer
from dbrun.embedded.making.units import standardize_latents

PROMPT = "a photo of a dog"


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stopped(Exception):
    """The run was killed here."""


@pytest.fixture
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int | None], None]:
    """Make every phase take so many steps, with a checkpoint after each; stop it after some of them."""

    def limit(steps: int, stop_after: int | None = None) -> None:
        taken = []

        def counted(phase: Phase, loss_at: Callable[[int], Tensor], *_: object) -> None:
            phase.progress.finish_from, phase.progress.finish_steps = 0, steps
            for _tick in run_phase(phase, loss_at, budget=0.0, finish=0.0):
                phase.save()
                taken.append(1)
                if len(taken) == stop_after:
                    raise Stopped

        monkeypatch.setattr(autoencoder, "train_phase", counted)
        monkeypatch.setattr(denoiser, "train_phase", counted)

    return limit


def tiny_plan(out: Path) -> PretrainSettings:
    return PretrainSettings(out, minutes=1.0, scenes=12, batch=4, workers=1, sizes=TINY, bf16=False)


def weights(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_bytes(tmp_path: Path, counted_steps) -> None:
    counted_steps(3)
    whole = weights(pretrain(tiny_plan(tmp_path / "whole"), "command"))
    for stop_after in (2, 2, 4):  # within the autoencoder, the denoiser and the decoder
        counted_steps(3, stop_after)
        with pytest.raises(Stopped):
            pretrain(tiny_plan(tmp_path / "broken"), "command")
    counted_steps(3)
    assert weights(pretrain(tiny_plan(tmp_path / "broken"), "command")) == whole
    assert len(whole) == 3


def test_the_export_is_a_pipeline_with_a_manifest(tmp_path: Path, counted_steps) -> None:
    from diffusers import StableDiffusionPipeline

    counted_steps(1)
    folder = pretrain(tiny_plan(tmp_path), "command")
    write_manifest(folder, "command", {})
    assert not list(tmp_path.glob("*.part"))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.safety_checker is None
    assert pipeline(PROMPT, num_inference_steps=1).images[0].size == (64, 64)


@pytest.mark.slow
def test_another_seed_is_another_model(tmp_path: Path, counted_steps) -> None:
    counted_steps(1)
    first = weights(pretrain(tiny_plan(tmp_path / "0"), "command"))
    other = PretrainSettings(**{**vars(tiny_plan(tmp_path / "1")), "seed": 1})
    assert weights(pretrain(other, "command")) != first


@pytest.mark.slow
def test_going_on_from_an_exported_model_keeps_its_autoencoder_and_trains_its_denoiser(
    tmp_path: Path, counted_steps
) -> None:
    counted_steps(2)
    model = pretrain(tiny_plan(tmp_path / "first"), "command")
    further = PretrainSettings(**{**vars(tiny_plan(tmp_path / "further")), "start": model})
    before, after = weights(model), weights(pretrain(further, "command"))
    same = {name for name in before if before[name] == after[name]}
    assert same == {"vae/diffusion_pytorch_model.safetensors"}
    assert sorted(path.name for path in (tmp_path / "further").glob("*.ckpt")) == ["denoiser.ckpt"]
    first, second = (json.loads((folder / "weights" / "manifest.json").read_text())
                     for folder in (tmp_path / "first", tmp_path / "further"))
    assert second["start"] == first and "start" not in first


@pytest.mark.slow
def test_going_on_begins_with_the_models_weights_and_ordinary_names(tmp_path: Path, counted_steps) -> None:
    counted_steps(1)
    model = pretrain(tiny_plan(tmp_path), "command")
    tokenizer = build_tokenizer(caption_words())
    network = Denoiser(TINY, tokenizer)
    denoiser.load_start_weights(network, tokenizer, model)
    stored = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor.half(), stored[name]) for name, tensor in network.unet.state_dict().items())
    lengths = network.text_encoder.get_input_embeddings().weight.norm(dim=1)
    place = tokenizer.convert_tokens_to_ids
    meant = torch.stack([lengths[place(f"{word}</w>")] for word in REFERENCE_WORDS]).mean()
    assert float(lengths[place("sks</w>")]) == pytest.approx(float(meant), rel=1e-3)


def test_the_manifests_command_names_no_folder_of_the_machine() -> None:
    said = manifest_command(["--minutes", "9", "--start", "/home/me/base", "--out", "/home/me/out", "--seed", "1"])
    assert said == "python -m dbrun.embedded.making.pretrain --minutes 9 --start MODEL --out FOLDER --seed 1"


def test_the_rate_warms_up_holds_and_falls() -> None:
    assert Progress(step=0).learning_rate() == pytest.approx(PEAK_LEARNING_RATE / WARMUP_STEPS)
    assert Progress(step=10_000).learning_rate() == PEAK_LEARNING_RATE
    falling = Progress(step=10_000, finish_from=10_000, finish_steps=100)
    assert falling.learning_rate() == PEAK_LEARNING_RATE and not falling.is_finished
    falling.step = 10_050
    assert falling.learning_rate() == pytest.approx(PEAK_LEARNING_RATE * (1 + FINAL_RATE_SHARE) / 2)
    falling.step = 10_100
    assert falling.learning_rate() == pytest.approx(PEAK_LEARNING_RATE * FINAL_RATE_SHARE) and falling.is_finished


def test_a_budget_ends_the_phase_and_a_checkpoint_remembers_it(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    phase = Phase(network, copy.deepcopy(network), tmp_path / "line.ckpt")
    ticks = list(run_phase(phase, lambda step: network(torch.ones(1, 2)).square().mean(), budget=0.5, finish=0.2))
    assert phase.progress.is_finished and phase.progress.finish_from and 0.3 < ticks[-1].seconds < 5
    phase.save()
    again = Phase(copy.deepcopy(network), copy.deepcopy(network), tmp_path / "line.ckpt")
    assert again.progress == phase.progress
    assert not list(run_phase(again, lambda step: network(torch.ones(1, 2)).mean(), budget=0.5, finish=0.2))


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    phase = Phase(network, copy.deepcopy(network), tmp_path / "line.ckpt")
    with pytest.raises(RuntimeError, match="step 0"):
        next(run_phase(phase, lambda step: network(torch.full((1, 2), float("nan"))).mean(), 1.0, 0.5))


def test_the_objective_agrees_with_the_scheduler_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    x0, noise = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    x_t, v = noisy_and_velocity(x0, noise, alpha_bar_schedule()[t])
    torch.testing.assert_close(x_t, scheduler.add_noise(x0, noise, t), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(v, scheduler.get_velocity(x0, noise, t), rtol=1e-5, atol=1e-5)


def test_every_timestep_weighs_the_same() -> None:
    v = torch.zeros(2, 4, 2, 2)
    assert v_loss(v + torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), v) == pytest.approx(5.0)


def test_standardised_latents_have_mean_0_and_spread_1_and_pictures_stay_the_same() -> None:
    torch.manual_seed(0)
    vae = build_vae(TINY).eval()
    pictures = torch.rand(6, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        drawn = vae.decode(before.mean).sample
        standardize_latents(vae, before.mean)
        after = vae.encode(pictures).latent_dist
        torch.testing.assert_close(vae.decode(after.mean).sample, drawn, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(LATENT_CHANNELS), rtol=0, atol=1e-4)
    torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), torch.ones(LATENT_CHANNELS), rtol=1e-4, atol=0)
    spread = before.mean.std(dim=(0, 2, 3), keepdim=True)
    torch.testing.assert_close(after.std, before.std / spread, rtol=1e-3, atol=1e-5)


def test_asked_to_finish_a_run_ends_long_before_its_budget(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    phase = Phase(network, copy.deepcopy(network), tmp_path / "line.ckpt")
    reports: list[int] = []
    train_phase(
                phase,
                lambda step: network(torch.ones(1, 2)).square().mean(),
                minutes=1e6,
                finish=0.002,
                report=lambda: reports.append(phase.progress.step),
    )
    assert phase.progress.is_finished and reports == [phase.progress.step]
    assert (tmp_path / "line.ckpt").exists()
