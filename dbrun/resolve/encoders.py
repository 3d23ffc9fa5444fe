"""The encoders of scores that a recipe names: found in a folder or in the Hub's cache, or fetched from the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import NotFetched, RecipeError
from dbrun.events import Emit, Note, Progress
from dbrun.input_file import folder_exists
from dbrun.naming import HUB_ID
from dbrun.recipe.load import LoadedRecipe
from dbrun.recipe.schema.scoring import ScoreEncoder
from dbrun.recipe.text.spans import ProblemCollector
from dbrun.resolve import hub
from dbrun.resolve.base import EMBEDDED
from dbrun.scores.encoder import Role, read_encoder_type, wanted_files
from dbrun.stages.sources import EncoderFiles
from dbrun.store.atomic import explain_os_error
from dbrun.store.store import Store

EVENT_STAGE = "encoders"
"""Stage name of the notes and progress events of fetching."""


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder by its contents. source: name → sha256 of each of its files; paths: sha256 → path."""

    source: EncoderFiles
    paths: dict[str, Path]


def find_encoders(loaded: LoadedRecipe, store: Store,
                  findings: ProblemCollector) -> dict[str, dict[Role, FoundEncoder]]:
    """Section, `evaluate` or `select`, → its encoders by role. Adds problems to findings."""
    found: dict[str, dict[Role, FoundEncoder]] = {}
    for section, role, key, encoder in _named_encoders(loaded):
        one = findings.attempt(f"{key}.path", find_encoder, encoder, role, loaded.folder_of(f"{key}.path"), store)
        if one is not None:
            found.setdefault(section, {})[role] = one
    return found


def find_encoder(encoder: ScoreEncoder, role: Role, relative_to: Path, store: Store) -> FoundEncoder:
    """Find an encoder and read the digests of its files. relative_to: folder that a relative path starts from.

    Raises RecipeError if there is none, or none for this role; NotFetched if it is on the Hub and not here yet.
    """
    folder = _encoder_folder(encoder, relative_to)
    try:
        read_encoder_type(folder, role)
        names = wanted_files(path.name for path in folder.iterdir())
        digests = {name: store.digests.sha256(folder / name) for name in names}
    except OSError as error:
        raise explain_os_error(error, f"reading the encoder {folder}") from error
    return FoundEncoder(digests, {digest: folder / name for name, digest in digests.items()})


def fetch_encoders(loaded: LoadedRecipe, store: Store, emit: Emit) -> None:
    """Fetch the encoders of the Hub that a recipe names and that are not here; none if HF_HUB_OFFLINE is set."""
    from dbrun.stages.support.download import ENCODER, download

    for _, role, _, encoder in _named_encoders(loaded):
        commit = encoder.revision
        if commit is None or hub.is_offline() or _is_complete(hub.snapshot_folder(encoder.path, commit), role):
            continue
        store.prepare()
        emit(Note(EVENT_STAGE, f"fetching the encoder {encoder.path} at {commit[:12]}"))

        def show_progress(done: int, total: int) -> None:
            emit(Progress(EVENT_STAGE, done, total, "files"))

        download(encoder.path, commit, wanted_files, show_progress, ENCODER)


def _named_encoders(loaded: LoadedRecipe) -> Iterator[tuple[str, Role, str, ScoreEncoder]]:
    """Yield (section that uses it, role, key that names it, encoder)."""
    recipe = loaded.recipe
    for section, encoders in recipe.score_encoders.items():
        own = getattr(recipe, section).encoders
        for role, encoder in encoders.items():
            named_in = section if role in own else "evaluate"
            yield section, role, f"{named_in}.{role}", encoder


def _encoder_folder(encoder: ScoreEncoder, relative_to: Path) -> Path:
    """Folder of an encoder. Raises RecipeError if nothing is there."""
    if encoder.path == EMBEDDED:
        from dbrun.embedded import encoder_path

        return encoder_path()
    if encoder.revision is None:
        folder = relative_to / Path(encoder.path).expanduser()
        if not folder_exists(folder):
            raise RecipeError(f"found {encoder.path!r}, which is no folder here ({folder})", fix=_folder_fix(encoder))
        return folder
    folder = hub.snapshot_folder(encoder.path, encoder.revision)
    # a download that was cut off may lack its last files; `read_encoder_type` would call them missing
    if not folder_exists(folder):
        fix = "`dbrun run` fetches it"
        if hub.is_offline():
            fix = "unset HF_HUB_OFFLINE, so that `dbrun run` may fetch it"
        raise NotFetched(f"the encoder {encoder.path} at {encoder.revision[:12]} is not in {hub.cache_folder()}",
                         fix=fix)
    return folder


def _folder_fix(encoder: ScoreEncoder) -> str:
    if HUB_ID.fullmatch(encoder.path):
        return "for a Hub id, write its 40-digit commit as `revision` beside it"
    return f"write `{EMBEDDED}`, a folder that transformers wrote, or a Hub id with its commit as `revision`"


def _is_complete(folder: Path, role: Role) -> bool:
    """Whether a folder of the Hub's cache holds a whole encoder."""
    if not folder_exists(folder):
        return False
    try:
        read_encoder_type(folder, role)
    except RecipeError:
        return False
    return True
