"""Does the making of the embedded encoder do what it says, and does what is shipped tell the subject from others?"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dbrun.embedded import encoder_path
from dbrun.embedded.making import discrimination, encoder
from dbrun.embedded.making.architecture import TINY, build_clip
from dbrun.embedded.making.captions import caption, caption_words
from dbrun.embedded.making.contrast import MAX_SCALE, PAIR_TEMPERATURE, augment, caption_loss, individual_loss
from dbrun.embedded.making.course import Phase, run_phase
from dbrun.embedded.making.discrimination import auc, measure_encoder
from dbrun.embedded.making.drawn_subjects import DRAWN_SUBJECTS
from dbrun.embedded.making.encoder import VIEWS, draw_view, train_encoder
from dbrun.embedded.making.export import file_digest
from dbrun.embedded.making.individuals import random_individual
from dbrun.embedded.making.sitting import PretrainSettings
from dbrun.embedded.making.tokenizer import build_tokenizer
from dbrun.embedded.making.world import COLOURS
from dbrun.scores.encoder import open_encoder, wanted_files

MANIFEST = encoder_path() / "manifest.json"


def unit_rows(count: int, seed: int) -> Tensor:
    return nn.functional.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_loss_of_captions_is_clips_own() -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    pictures, texts, log_scale = unit_rows(5, 0), unit_rows(5, 1), torch.tensor(2.0)
    nothing_equal = torch.eye(5, dtype=torch.bool)
    expected = image_text_contrastive_loss(math.exp(2.0) * texts @ pictures.T)
    torch.testing.assert_close(caption_loss(pictures, texts, nothing_equal, log_scale), expected)
    # the scale is bounded, as CLIP's is
    assert caption_loss(pictures, texts, nothing_equal, torch.tensor(99.0)) == caption_loss(
        pictures, texts, nothing_equal, torch.tensor(math.log(MAX_SCALE)))


def test_an_equal_caption_of_another_picture_is_no_negative() -> None:
    pictures, log_scale = unit_rows(3, 0), torch.tensor(0.0)
    texts = pictures[[0, 0, 2]]
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    logits = (pictures @ texts.T).double().numpy()
    # by hand: each row and column without its twin
    terms = []
    for row, twin in ((0, 1), (1, 0), (2, None)):
        others = [place for place in range(3) if place != twin]
        terms.append(np.log(np.exp(logits[row, others]).sum()) - logits[row, row])
        terms.append(np.log(np.exp(logits[others, row]).sum()) - logits[row, row])
    assert float(caption_loss(pictures, texts, same, log_scale)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_loss_of_individuals_is_nt_xent() -> None:
    rows = unit_rows(6, 0).double()
    terms = []
    for index in range(6):
        scores = {other: float(rows[index] @ rows[other]) / PAIR_TEMPERATURE for other in range(6) if other != index}
        terms.append(math.log(sum(math.exp(score) for score in scores.values())) - scores[(index + 3) % 6])
    assert float(individual_loss(rows)) == pytest.approx(np.mean(terms), rel=1e-9)


def test_augmented_pictures_are_near_the_drawn_ones_and_repeatable() -> None:
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    first, again = (augment(pictures, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == pictures.shape
    assert not torch.equal(first, augment(pictures, torch.Generator().manual_seed(2)))
    assert float((first - 0.45).abs().max()) < 0.4


def test_views_of_an_individual_share_its_look_and_differ_in_place() -> None:
    shipped = [subject.look for subject in DRAWN_SUBJECTS.values() if hasattr(subject, "look")]
    assert shipped
    for seed in range(60):
        individual = random_individual(seed)
        assert individual == random_individual(seed) and individual.look not in shipped
        scenes = [individual.scene(view) for view in range(VIEWS)]
        assert {scene.kind for scene in scenes} == {individual.kind}
        # what its captions name is what is drawn
        words = caption(scenes[0], Random(seed)).split()
        assert not set(words) & (set(COLOURS) - {individual.colour, individual.collar, individual.hat})
    assert len({random_individual(seed).scene(view).place for seed in range(9) for view in range(VIEWS)}) > 5
    assert draw_view(7).tobytes() == draw_view(7).tobytes() != draw_view(6).tobytes()


class Stopped(Exception):
    """The run was killed here."""


@pytest.fixture
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int | None], None]:
    """Let training take so many steps, with a checkpoint after each; stop it after some of them."""

    def limit(steps: int, stop_after: int | None = None) -> None:
        def counted(phase: Phase, loss_at: Callable[[int], Tensor], *_: object) -> None:
            phase.progress.finish_from, phase.progress.finish_steps = 0, steps
            for done, _step in enumerate(run_phase(phase, loss_at, budget=0.0, finish=0.0), start=1):
                phase.save()
                if done == stop_after:
                    raise Stopped

        monkeypatch.setattr(encoder, "train_phase", counted)

    # the figures of a tiny encoder say nothing, and take seconds
    monkeypatch.setattr(encoder, "measure_encoder", lambda folder, **_: {"retrieval": 0.0})
    return limit


def tiny_plan(out: Path) -> PretrainSettings:
    return PretrainSettings(out, minutes=1.0, scenes=6, batch=4, workers=1, sizes=TINY, bf16=False)


def test_a_stopped_training_resumes_to_the_same_bytes_and_its_export_opens(tmp_path: Path, counted_steps) -> None:
    counted_steps(3)
    whole = train_encoder(tiny_plan(tmp_path / "whole"), "command")
    counted_steps(3, stop_after=2)
    with pytest.raises(Stopped):
        train_encoder(tiny_plan(tmp_path / "broken"), "command")
    counted_steps(3)
    resumed = train_encoder(tiny_plan(tmp_path / "broken"), "command")
    for name in wanted_files(path.name for path in whole.iterdir()):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes(), name
    opened = open_encoder(resumed, torch.device("cpu"), role="clip")
    assert opened.embed_pictures([draw_view(0)]).shape == opened.embed_texts(["a dog"]).shape
    manifest = json.loads((resumed / "manifest.json").read_text())
    assert manifest["command"] == "command" and manifest["figures"]["images"] == 3 * 2 * 4
    assert "sampling" not in manifest
    # three small steps of the averaged weights can be seen in half precision
    torch.manual_seed(0)
    start = build_clip(TINY, build_tokenizer(caption_words())).half().state_dict()
    trained = load_file(whole / "model.safetensors")
    for name in ("visual_projection.weight", "text_projection.weight"):
        assert not torch.equal(trained[name], start[name]), name


def test_the_area_under_the_curve_counts_pairs_and_halves_ties() -> None:
    assert auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1.0
    assert auc(torch.tensor([0.0]), torch.tensor([0.0, 1.0])) == 0.25
    assert auc(torch.tensor([1.0, 5.0]), torch.tensor([3.0])) == 0.5


def test_the_manifest_names_every_shipped_file_with_its_digest_and_how_it_was_made() -> None:
    manifest = json.loads(MANIFEST.read_text())
    there = {path.name for path in encoder_path().iterdir()}
    assert set(manifest["files"]) == there - {"manifest.json"} == set(wanted_files(there))
    for name, digest in manifest["files"].items():
        assert file_digest(encoder_path() / name) == digest, name
    assert manifest["command"].startswith("python -m dbrun.embedded.making.encoder ")
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["figures"]["auc_other_dogs"] >= 0.95


def test_what_is_shipped_is_at_most_6_megabytes_of_half_precision() -> None:
    assert sum(path.stat().st_size for path in encoder_path().iterdir()) <= 6e6
    weights = load_file(encoder_path() / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


@pytest.mark.slow
def test_what_is_shipped_tells_the_subject_from_other_dogs_and_finds_captions() -> None:
    """As `manifest.json` says, to the digit but for another machine's rounding."""
    figures = measure_encoder(encoder_path())
    assert figures["auc_other_dogs"] >= 0.95 and figures["auc_unusual_dogs"] >= 0.95, figures
    assert figures["retrieval"] >= 0.9, figures
    recorded = json.loads(MANIFEST.read_text())["figures"]
    for name, value in figures.items():
        assert value == pytest.approx(recorded[name], abs=0.01), name


@pytest.mark.slow
def test_an_untrained_encoder_does_not(tmp_path: Path, counted_steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are no constant: the same measurement of random weights is near chance."""
    counted_steps(1)
    folder = train_encoder(tiny_plan(tmp_path), "command")
    monkeypatch.setattr(discrimination, "other_dogs", lambda count: discrimination.unusual_dogs(12))
    monkeypatch.setattr(discrimination, "retrieval", lambda opened, rounds: 0.0)
    assert discrimination.measure_encoder(folder)["auc_other_dogs"] < 0.95
