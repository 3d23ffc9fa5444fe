"""Does a plan ask the Hub about a base that a run would fetch, and only then?"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_base import fake_base
from local_hub import RepoHub, ask_here, serving
from PIL import Image

from dbrun.plan.hub_check import ask_hub
from dbrun.plan.planner import ALL_STAGES, Plan, Scope, Status, make_scope, plan_scope
from dbrun.plan.preflight import preflight_error
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

RECIPE = """\
schema: dbrun/v1
name: x
base: {path: owner/name}
subject: {images: photos, instance_prompt: a photo of sks dog}
adapt: {denoiser: {type: lora}}
device: cpu
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RepoHub]:
    with serving(RepoHub(fake_base(tmp_path / "served"))) as served:
        ask_here(served, tmp_path / "cache", monkeypatch)
        yield served


def asked(home: Path, *overrides: str) -> tuple[Scope, Plan]:
    (home / "photos").mkdir(exist_ok=True)
    Image.new("RGB", (600, 600), "red").save(home / "photos" / "0.png")
    (home / "r.yaml").write_text(RECIPE)
    loaded, store = load_recipe(home / "r.yaml", overrides), Store(home / "store")
    scope = make_scope(loaded.recipe, resolve_sources(loaded, store), store, ALL_STAGES, None)
    scope = ask_hub(scope, plan_scope(scope))
    return scope, plan_scope(scope)


def notes(scope: Scope) -> list[str]:
    return [note.text for note in scope.resolved.notes if "Hub" in note.text or "download" in note.text]


def test_the_size_is_told_and_nothing_is_fetched(hub: RepoHub, tmp_path: Path) -> None:
    scope, plan = asked(tmp_path)
    (note,) = notes(scope)
    assert note.startswith("the download of owner/name takes") and "are free in" in note
    assert plan.stages[0].status is Status.RUN and hub.sent == [] and not (tmp_path / "cache").exists()


def test_a_refusal_blocks_the_plan_with_what_to_do(hub: RepoHub, tmp_path: Path) -> None:
    hub.gated = "auto"
    scope, plan = asked(tmp_path)
    assert {stage.status for stage in plan.stages} == {Status.BLOCKED} and not notes(scope)
    stop = preflight_error(plan, "r.yaml", scope.store)
    assert stop is not None and "owner/name is gated" in stop.message
    assert "https://huggingface.co/owner/name" in str(stop.fix)
    hub.gated = False
    assert "no weights of the variant 'fp8'" in str(asked(tmp_path, "base.variant=fp8")[1].stages[0].reason)
    assert "has no revision v9" in str(asked(tmp_path, "base.revision=v9")[1].stages[0].reason)


def test_without_a_network_the_plan_stands(hub: RepoHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    scope, plan = asked(tmp_path)
    assert "the size of the download is not known" in notes(scope)[0] and plan.stages[0].status is Status.RUN
    scope, _ = asked(tmp_path, "base.path=black-forest-labs/FLUX.1-dev", "base.type=flux", f"base.revision={'0' * 40}")
    assert "the download is not known exactly: about 34 GB" in notes(scope)[0]


def test_offline_and_with_the_base_at_hand_nobody_is_asked(hub: RepoHub, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*words: object) -> None:
        raise AssertionError

    monkeypatch.setattr("dbrun.stages.support.download.describe_download", ask)
    assert not notes(asked(tmp_path, f"base={{path: {hub.folder}}}")[0])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in str(asked(tmp_path)[1].stages[0].reason)
