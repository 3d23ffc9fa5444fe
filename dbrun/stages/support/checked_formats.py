"""Writing of an export's formats, each read back by its own library and compared with the training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.models.base import Model
from dbrun.models.prompt_encoding import KnownOutputs
from dbrun.stages.base import StageContext
from dbrun.stages.support.base_loading import load_base

if TYPE_CHECKING:
    from dbrun.formats.base import Format
    from dbrun.formats.roundtrip import Probe, ReferencePredictions


@dataclass(frozen=True)
class FormatCheck:
    """What a format that is read back is compared with, and what its files tell.

    probe: the input; expected: the predictions in training; known: what the text encoders that do not learn give of the
    probe's prompt; scheduler_changes: to the base's scheduler, in whole pipelines; document: the provenance.
    """

    probe: Probe
    expected: ReferencePredictions
    known: KnownOutputs
    scheduler_changes: Mapping[str, object]
    document: Mapping[str, object]

    def carried(self, form: Format, model: Model) -> tuple[str, ...]:
        """The components that the format carries."""
        return tuple(name for name in self.expected.adapters if form.supports(model.family, name))


def write_adapter_formats(ctx: StageContext[Any], model: Model, forms: Sequence[Format], check: FormatCheck) -> None:
    """Write and check formats that hold adapters alone. model: the untouched base, which it is again afterwards."""
    for form in forms:
        ctx.check_interrupt()
        _check_format(ctx, model, form, check, _write_format(ctx, model, form, check, model))


def write_large_formats(ctx: StageContext[Any], model: Model, forms: Sequence[Format], check: FormatCheck) -> None:
    """Write formats that hold whole components, then check each.

    model: the untouched base. It is so again afterwards, but what was read back in place of components is released.
    """
    # all are written before the first is read back, which takes the place of the base in memory: so its weights are
    # read only once, however many formats there are
    @cache
    def exact() -> Model:
        return exact_base(ctx, model)

    written: dict[str, tuple[Path, ...]] = {}
    for form in forms:
        ctx.check_interrupt()
        written[form.NAME] = _write_format(ctx, model, form, check, exact())
    if forms and exact() is not model:
        exact().release(*model.family.weight_components)
    for form in forms:
        ctx.check_interrupt()
        _check_format(ctx, model, form, check, written[form.NAME])


def exact_base(ctx: StageContext[Any], model: Model) -> Model:
    """The base in 32 bits, which whole components are merged in: 16 bits would round most of an adapter away."""
    import torch

    if model.weights.quantisation is not None:
        # not needed any more, and large beside the other
        model.release(*model.family.weight_components)
    elif model.dtype == torch.float32:
        return model
    # on the CPU: it is as large as the base twice over, and hardly anything is computed with it
    return load_base(ctx, "fp32", torch.device("cpu"))


def _write_format(ctx: StageContext[Any], model: Model, form: Format, check: FormatCheck,
                  exact: Model) -> tuple[Path, ...]:
    """Write one format; returns its safetensors files. exact: the base in 32 bits, untouched before and after."""
    from dbrun.formats.merge_weights import restore_base

    carried = {name: check.expected.adapters[name] for name in check.carried(form, model)}
    # a copy for each format: merged words replace a tokenizer, which `restore_base` puts back into the original only
    written = form.write(ctx.out, model.family, carried, lambda: exact.with_scheduler_changes(check.scheduler_changes))
    restore_base(exact)
    return written


def _check_format(ctx: StageContext[Any], model: Model, form: Format, check: FormatCheck,
                  written: Sequence[Path]) -> None:
    """Read a format back with its own library, compare, and add the provenance to its files.

    model: the untouched base, which it is again afterwards. Raises StageFailed where the model that was read back
    predicts something else.
    """
    from dbrun.formats.merge_weights import restore_base
    from dbrun.formats.roundtrip import describe_difference
    from dbrun.formats.shown_metadata import ROOM_FOR_NAME, shown_metadata
    from dbrun.formats.stamp import write_provenance

    expected, carried = check.expected, check.carried(form, model)
    # what the format cannot hold is attached directly, so that only the written part is compared; new words are added
    # after the file is read, because reading may replace the text encoder and the tokenizer
    missing = sorted(expected.adapters.keys() - set(carried))
    words = [name for name in missing if name in model.family.token_components]
    for name in missing:
        if name not in words:
            expected.adapters[name].attach_to(model.module(name))
    form.read(ctx.out, model, carried)
    for name in words:
        expected.adapters[name].attach_to(model.module(name))
    difference = expected.compare(check.probe.predict(model, check.known), model, form, carried)
    restore_base(model)
    # two digits: the last ones of a difference vary between machines
    numbers = {"difference": difference, "allowed": expected.tolerance, "effect": expected.effect}
    rounded = {name: float(f"{value:.1e}") for name, value in numbers.items()}
    names = model.family.published_names(model.folder)
    for path in written:
        shown: Mapping[str, str] = {}
        if form.SPEC_SUFFIX is not None:
            shown = shown_metadata(path, check.document, names, form.SPEC_SUFFIX)
        document = {**check.document, "self_check": {"format": form.NAME, **rounded}}
        write_provenance(path, document, shown, ROOM_FOR_NAME)
    ctx.note(f"{form.NAME}: read back, {describe_difference(difference)}")


def encode_once(model: Model, prompts: Sequence[str], text_encoders: Sequence[str],
                kept: Collection[str] = ()) -> Callable[[], KnownOutputs]:
    """A function that gives what these text encoders make of prompts; the first call encodes them.

    Those that are not kept are released after it.
    """
    @cache
    def known() -> KnownOutputs:
        return model.encoder_outputs(prompts, text_encoders, kept)

    return known
