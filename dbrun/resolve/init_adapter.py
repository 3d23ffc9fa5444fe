"""The adapter that `adapt.<component>.init` names, checked against the recipe; read without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.adapters.attach import matching_names
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.formats.base import Format, formats
from dbrun.formats.base_kind import check_base_kind, with_base_kind
from dbrun.formats.peft import PREFIX as PEFT_PREFIX
from dbrun.input_file import path_exists
from dbrun.models.base import Family
from dbrun.recipe.checks.suggestions import join_with_or
from dbrun.safetensors_header import tensor_shapes
from dbrun.store.atomic import explain_os_error
from dbrun.store.store import Store

LORA_DOWN_NAME = re.compile(r"\.lora(_A|[._]down)\.(\w+\.)?weight$")
"""End of the name of a LoRA's down matrix, whose shape is `[rank, in, …]`."""


@dataclass(frozen=True)
class FoundAdapter:
    """Adapter by its contents.

    identity: as in `Sources.inits`; files: sha256 → path of the file; components: all that its files have a part for.
    """

    identity: str
    files: Mapping[str, Path]
    components: tuple[str, ...] = ()


@dataclass(frozen=True)
class InitRequest:
    """Requirements on an adapter to start from.

    adapter: as the recipe describes it; relative_to: folder that a relative path starts from; layer_count: number of
    layers that its targets match, 0 if not known yet; preset_layer_counts: target preset → number of layers it matches;
    base: folder of the base, None if it is not here; base_layers: names of all layers that the adapter type can wrap.
    """

    family: Family
    component: str
    adapter: Adapter
    relative_to: Path
    layer_count: int = 0
    preset_layer_counts: Mapping[str, int] = field(default_factory=dict)
    base: Path | None = None
    base_layers: tuple[str, ...] = ()


def find_adapter(path: str, request: InitRequest, store: Store) -> FoundAdapter:
    """Find the adapter at a path. Raises RecipeError if there is none, or if its type, rank or layers do not fit."""
    place = request.relative_to / Path(path).expanduser()
    # formats without a description of their files can be written, but not read back
    readable = [form for form in formats().values() if form.FILE_DESCRIPTION]
    try:
        for form in readable:
            files = form.find_files(place)
            if files is None:
                continue
            if request.base is not None:
                check_base_kind(str(place), files, request.base)
            held = _held_types(form, files, request)
            _check_type(held[request.component], place, request.adapter)
            # the weights are the last file; a config, if the format has one, comes before
            prefix = form.weight_prefix(request.family, request.component)
            _check_rank_and_layers(files[-1], prefix, place, request)
            digests = [store.digests.sha256(file) for file in files]
            return FoundAdapter(f"{form.NAME}:{'+'.join(digests)}", dict(zip(digests, files, strict=True)), tuple(held))
    except OSError as error:
        raise explain_os_error(error, f"reading the adapter {place}") from error
    problem = "is not an adapter" if path_exists(place) else "is not there"
    allowed = join_with_or([form.FILE_DESCRIPTION for form in readable if form.FILE_DESCRIPTION])
    raise RecipeError(f"{place} {problem}", fix=f"name {allowed}")


def unused_parts(found: Mapping[str, FoundAdapter]) -> Iterator[tuple[str, str]]:
    """Yield (component, sentence) for each file that also holds what no component of the recipe starts from.

    found: component → the adapter that it starts from.
    """
    by_file: dict[str, list[str]] = {}
    for component, init in found.items():
        by_file.setdefault(init.identity, []).append(component)
    for starting in by_file.values():
        init = found[starting[0]]
        unused = [component for component in init.components if component not in starting]
        if unused:
            name = list(init.files.values())[-1].name
            yield starting[0], (f"{name} holds an adapter of the {' and the '.join(unused)}, too, which is not used; "
                                f"`adapt.{unused[0]}.init` would start from it")


def _held_types(form: Format, files: tuple[Path, ...], request: InitRequest) -> dict[str, str]:
    """Component → type of the adapter that the files hold for it. Raises RecipeError if the request's is not held."""
    candidates = form.candidate_components(files, request.family)
    # a format of one component in a file takes the user's word for which one it is
    if request.component not in candidates:
        candidates = (request.component,)
    held: dict[str, str] = {}
    for component in candidates:
        try:
            held[component] = form.adapter_type(files, request.family, component)
        except RecipeError as error:
            if component == request.component:
                told = with_base_kind(error, str(files[-1]), files)
                raise RecipeError(told.message, fix=f"remove `adapt.{component}.init`, or {told.fix}") from error
    return held


def _check_type(found: str, place: Path, adapter: Adapter) -> None:
    """Raise RecipeError if the type of the file is not that of the recipe. found: the type of the file."""
    if found != adapter.NAME:
        raise RecipeError(f"{place} is an adapter of type {found}, but the recipe says `type: {adapter.NAME}`",
                          fix=f"write `type: {found}`, or name another adapter")


def _check_rank_and_layers(weights: Path, prefix: str, place: Path, request: InitRequest) -> None:
    """Raise RecipeError if a LoRA has another rank or another number of layers than the recipe.

    weights: the safetensors file; prefix: beginning of the names of this component's weights; place: as the user named
    the adapter.
    """
    own = {name: shape for name, shape in tensor_shapes(weights).items() if name.startswith(prefix)}
    ranks = [shape[0] for name, shape in own.items() if LORA_DOWN_NAME.search(name)]
    # `adapt` checks other types once their weights are loaded, and layers that kohya's files join
    if not ranks or _holds_joined_layers(prefix, request):
        return
    recipe_rank = getattr(request.adapter, "rank", None)
    if set(ranks) != {recipe_rank}:
        usual_rank = Counter(ranks).most_common(1)[0][0]
        raise RecipeError(f"{place} has rank {usual_rank}, but the recipe says `rank: {recipe_rank}`",
                          fix=f"write `rank: {usual_rank}`")
    if request.layer_count and len(ranks) != request.layer_count:
        fitting = [preset for preset, count in request.preset_layer_counts.items() if count == len(ranks)]
        fix = "write patterns in `targets` that match the layers of the existing adapter"
        if fitting:
            fix = f"write `targets: {fitting[0]}`"
        elif request.base_layers:
            layers = [LORA_DOWN_NAME.sub("", name) for name in own if LORA_DOWN_NAME.search(name)]
            try:
                fix = f"write `targets: [{', '.join(_patterns(layers, prefix, request))}]`"
            except RecipeError as error:
                raise with_base_kind(error, str(place), [weights]) from error
        raise RecipeError(f"{place} adapts {len(ranks)} layers, but `targets` matches {request.layer_count}", fix=fix)


def _holds_joined_layers(prefix: str, request: InitRequest) -> bool:
    _, kohya_prefix = request.family.kohya_prefixes.get(request.component, ("", None))
    return prefix == kohya_prefix and request.family.joins_layers(request.component)


def _patterns(layers: Sequence[str], prefix: str, request: InitRequest) -> list[str]:
    """Patterns of `targets` that hit these layers of the base and no other: the shortest ends of their names.

    layers: as the file names them; prefix: beginning of those names. Raises RecipeError if the base lacks one of them.
    """
    by_plain_name = {_plain_name(name, ""): name for name in request.base_layers}
    if request.base is not None:
        # kohya's trainers write these for SDXL
        original = request.family.original_layer_names(request.base, request.component, request.base_layers)
        by_plain_name |= {_plain_name(other, ""): name for name, other in original.items()}
    found = {by_plain_name.get(_plain_name(layer, prefix)) for layer in layers}
    hit = {name for name in found if name is not None}
    if len(hit) < len(layers):
        raise RecipeError(f"it adapts {len(layers)} layers of the {request.component}, but this base has {len(hit)} of "
                          "them", fix="name an adapter that was trained on this base")
    patterns: list[str] = []
    for name in sorted(hit):
        parts = name.split(".")
        # The whole name hits itself alone, so that one end always fits.
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        patterns.append(next(end for end in ends if hit.issuperset(matching_names(request.base_layers, [end]))))
    return sorted(set(patterns))


def _plain_name(layer: str, prefix: str) -> str:
    """A layer's name in the spelling that all formats share: `_` for every `.`, without what stands before it."""
    plain = layer.removeprefix(prefix).removeprefix(PEFT_PREFIX).replace(".", "_")
    # Older and newer text encoders differ in this beginning.
    return plain.removeprefix("text_model_")
