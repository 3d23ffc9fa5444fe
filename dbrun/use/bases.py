"""Over which base is an adapter used: the one it was trained on, or one that is named?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbrun.errors import RecipeError, UsageError
from dbrun.models.base import Family, Model, families
from dbrun.plan.device import resolve_numerics
from dbrun.recipe.checks.rules import HUB_ID
from dbrun.recipe.schema.model import Base
from dbrun.resolve.base import EMBEDDED, find_base, parse_hub_identity
from dbrun.safetensors_header import read_records
from dbrun.stages.load import select_files
from dbrun.stages.sources import BaseSource
from dbrun.store.store import Store


@dataclass(frozen=True)
class LocalBase:
    """A base that is here. asked: how it was named; identity: what it is; folder, variant: what is loaded."""

    family: Family
    asked: str
    identity: str
    folder: Path
    variant: str | None

    def load(self, precision: str = "fp32", device: str = "auto", threads: int = 1) -> Model:
        """The base in memory."""
        from dbrun.training.device import DTYPES, set_up_device

        return self.family.load(self.folder, device=set_up_device(resolve_numerics(device, threads)),
                                dtype=DTYPES[precision], variant=self.variant)


def choose_base(documents: Sequence[Mapping[str, Any]], asked: str | None, beside: Sequence[Path],
                store: Store) -> tuple[LocalBase, tuple[str, ...]]:
    """The base, and what is worth saying about it. Raises UsageError where it is not known which.

    documents: the adapters' provenance; asked: as the user named it; beside: the places of the adapters.
    """
    trained = [said for document in documents for said in _training_bases(document)]
    if asked is not None:
        at_hand = _base_of_option(asked, trained, store)
    elif trained:
        at_hand = _base_of_provenance(trained[0], beside, store)
    else:
        raise UsageError("no adapter says which base it was trained on",
                         fix="name it: --base embedded, a folder in diffusers format, or owner/name@revision")
    others = [said["identity"] for said in trained if said["identity"] != at_hand.identity]
    return at_hand, tuple(f"trained on another base than {at_hand.asked}: {other}" for other in dict.fromkeys(others))


def _training_bases(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The bases of an adapter, or of those that it was merged from."""
    if said := document.get("recipe", {}).get("base"):
        yield said
    for part in document.get("merged", {}).get("of", ()):
        yield from _training_bases(part.get("provenance", {}))


def _base_of_provenance(said: Mapping[str, Any], beside: Sequence[Path], store: Store) -> LocalBase:
    """The base of a provenance: on the Hub, the embedded one, or one that a record beside the adapter names."""
    if parts := parse_hub_identity(said["identity"]):
        return _find_or_download(Base(type=said["type"], path=parts[0], revision=parts[1], variant=said["variant"]),
                                 store)
    for path in (EMBEDDED, *_recorded_paths(beside)):
        try:
            found = _find_or_download(Base(type=said["type"], path=path, variant=said["variant"]), store)
        except RecipeError:
            continue
        if found.identity == said["identity"]:
            return found
    raise UsageError(f"the base that it was trained on is a folder of files ({said['identity'][:18]}…), and it is not "
                     "known where that is", fix="name it: --base FOLDER")


def _recorded_paths(beside: Sequence[Path]) -> list[str]:
    """The paths of bases in the records that lie beside delivered adapters."""
    found = []
    for place in beside:
        for record in read_records((place, *place.absolute().parents[:3])):
            with suppress(KeyError, TypeError):
                found.append(str(record["recipe"]["base"]["path"]))
    return found


def _base_of_option(asked: str, trained: Sequence[Mapping[str, Any]], store: Store) -> LocalBase:
    """The base that the user named; its family is read from it, or is that of the adapters."""
    path, _, revision = asked.partition("@")
    folder = Path(asked).expanduser()
    if (folder / "model_index.json").is_file() or not HUB_ID.fullmatch(path):
        return _find_or_download(Base(type=_detect_family(folder) or _base_type(trained), path=asked), store)
    return _find_or_download(Base(type=_base_type(trained), path=path, revision=revision or None), store)


def _base_type(trained: Sequence[Mapping[str, Any]]) -> str:
    return str(trained[0]["type"]) if trained else next(iter(f.NAME for f in families().values() if f.kohya_prefixes))


def _detect_family(folder: Path) -> str | None:
    try:
        pipeline = json.loads((folder / "model_index.json").read_bytes())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((family.NAME for family in families().values() if pipeline in family.pipeline_classes), None)


def _find_or_download(base: Base, store: Store) -> LocalBase:
    """The base, fetched where it is on the Hub and not here."""
    found = find_base(base, Path(), store)
    source, family = found.source, families()[base.type]
    if source.folder is None:
        source = _download(base, source, found.unavailable_reason)
    assert source.folder is not None
    return LocalBase(family, base.path, source.identity, source.folder, base.variant)


def _download(base: Base, source: BaseSource, unavailable_reason: str | None) -> BaseSource:
    from dataclasses import replace

    from dbrun.stages.support import download

    if unavailable_reason:
        raise RecipeError(unavailable_reason, fix="unset HF_HUB_OFFLINE, or name a base that is here")
    commit, family = download.resolve_commit(base.path, base.revision), families()[base.type]
    folder = download.download(base.path, commit, lambda names: select_files(names, family.subfolders, base.variant),
                          lambda done, total: None)
    return replace(source, folder=folder, identity=f"hub:{base.path}@{commit}")
