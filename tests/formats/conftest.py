"""A tiny base with a trained adapter on each of its components."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from adapter_kinds import make, moved, put, widest
from representatives import representatives

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import adapter_types
from dbrun.formats.base import Format, formats
from dbrun.formats.roundtrip import Probe, ReferencePredictions
from dbrun.models.base import Family, Model, families

NAMES = [*(kind.NAME for kind in adapter_types() if kind.uses_peft), "dora", "pissa"]
WIDE = min((family for family in families().values()
            if "text_encoder" in family.kohya_prefixes and not family.joins_layers("denoiser")),
           key=lambda family: len(family.components))
"""The smallest family with a text encoder that every format carries: it is loaded hundreds of times."""
CASES = [*((WIDE, name) for name in NAMES), *((family, "lora") for family in families().values()
                                              if family.NAME != WIDE.NAME)]
"""Every adapter type on one family; on the others LoRA."""
IN_PLACE = (WIDE, "full")
"""What learns without peft."""


@dataclass(frozen=True)
class Trained:
    """family, folder: a base; adapters: far from their start; expected: what they predict."""

    family: Family
    folder: Path
    adapters: dict[str, ComponentAdapter]
    probe: Probe
    expected: ReferencePredictions

    def fresh(self) -> Model:
        return self.family.load(self.folder, device=torch.device("cpu"), dtype=torch.float32)


def _components(family: Family, name: str, form: Format) -> list[str]:
    return [c for c in family.components if form.supports(family, c)
            and form.unsupported_reason(family, c, make(name)) is None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every case; where a test asks for a `form`, with each format that can carry all of it.

    Of these pairs the default set has LoRA in each format, and, for a test marked `all_types`, each other case in
    PEFT's, where it can be, or in the first that can; the others are marked slow.
    """
    wanted = set(metafunc.fixturenames)
    all_types = metafunc.definition.get_closest_marker("all_types") is not None
    if {"trained", "form"} <= wanted:
        pairs = [(case, form) for case in (*CASES, IN_PLACE) for form in formats().values()
                 if _components(*case, form) == list(case[0].components)]
        pairs.sort(key=lambda pair: (pair[0] != (WIDE, "lora"), pair[1].NAME != "peft"))
        params, seen = [], set[str]()
        for (family, name), form in pairs:
            case = f"{family.NAME}-{name}"
            usual = not {case, form.NAME} <= seen and (all_types or (family, name) in ((WIDE, "lora"), IN_PLACE))
            seen |= {case, form.NAME}
            params.append(pytest.param((family, name), form, id=f"{case}-{form.NAME}",
                                       marks=() if usual else pytest.mark.slow))
        metafunc.parametrize(("trained", "form"), params, indirect=["trained"], scope="session")
    elif "trained" in wanted:
        usual = representatives()
        metafunc.parametrize("trained", [
            pytest.param((family, name), id=f"{family.NAME}-{name}",
                         marks=() if family.NAME in usual else pytest.mark.slow) for family, name in CASES],
            indirect=True, scope="session")


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One case: a family, and an adapter type on each of its components."""
    family, name = request.param
    folder = tmp_path_factory.mktemp("formats") / "base"
    family.write_tiny_base(folder)
    model, on = (family.load(folder, device=torch.device("cpu"), dtype=torch.float32) for _ in range(2))
    probe = Probe("a photo of sks dog", 32)
    base = probe.predict(model)
    fields = type(make(name)).model_fields
    adapter = make(name, **{key: value for key, value in {"rank": 2, "alpha": 5.0}.items() if key in fields})
    adapters = {component: moved(put(model, component, adapter, widest(adapter)), by=0.1)
                for component in family.components}
    for component, attached in adapters.items():
        attached.attach_to(on.module(component))
    return Trained(family, folder, adapters, probe, ReferencePredictions(base, probe.predict(on), adapters))
