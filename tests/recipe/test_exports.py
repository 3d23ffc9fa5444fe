"""Is an adapter that cannot be meant refused before anything runs, with the fix, and does `export` follow the types?"""

import pytest

from dbrun.recipe.checks.exports import export_formats, export_options
from dbrun.recipe.text.spans import InvalidRecipe

LORA = "{type: lora, rank: 16, targets: all}"
WRONG = [
    ("{type: oft, targets: all}", ["adapt.denoiser.targets: found 'all', which holds convolutions: on a convolution "
                                   "OFT changes the base", "write `targets: linear`"]),
    ("{type: lora, start: pissa, targets: all}", ["adapt.denoiser.targets: found 'all'", "`targets: linear`"]),
    ("{type: lora, start: pissa, dropout: 0.1}", ["adapt.denoiser.dropout: found 0.1 with `start: pissa`"]),
    ("{type: lora, start: pissa, dora: true}", ["adapt.denoiser.dora: found true with `start: pissa`"]),
    ("{type: lora, start: pissa, init: old}", ["adapt.denoiser.init: found an adapter to start from"]),
    ("{type: lora, start: svd}", ["adapt.denoiser.start: found 'svd', allowed: zero or pissa"]),
    ("{type: lora, dora: yes}", ["adapt.denoiser.dora: found 'yes', allowed: true or false"]),
    ("{type: lora, factor: 4}", ["adapt.denoiser.factor: unknown key"]),
    ("{type: loha, effective_conv: true}", ["adapt.denoiser.effective_conv: found true, but `targets: attention` "
                                            "holds no convolution", "`targets: all`"]),
    ("{type: loha}", ["r.yaml:15:10 export.0: found 'diffusers', which carries LoRA only, and `adapt.denoiser` is of "
                      "type loha", "write `export: [peft, kohya]`"]),
    ("{type: lokr, factor: 1}", ["adapt.denoiser.factor: found '1', allowed: a whole number from 2"]),
    ("{type: lokr, dropout: 1}", ["adapt.denoiser.dropout: found '1'"]),
    ("{type: oft, block_size: 1}", ["adapt.denoiser.block_size: found '1', allowed: a whole number from 2"]),
    ("{type: oft, rank: 4}", ["adapt.denoiser.rank: unknown key"]),
    (LORA + "\n  text_encoder: {type: lokr}", ["export.0: found 'diffusers'", "`adapt.text_encoder` is of type lokr"]),
]


@pytest.mark.parametrize(("adapter", "fragments"), WRONG, ids=[adapter for adapter, _ in WRONG])
def test_what_cannot_be_meant_is_refused_with_the_fix(load, good, adapter, fragments) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good.replace(LORA, adapter))
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(("adapter", "formats"), [
    (LORA, ("diffusers", "peft", "kohya")),
    ("{type: lora, dora: true, rslora: true}", ("diffusers", "peft")),
    ("{type: lora, start: pissa}", ("diffusers", "peft", "kohya")),
    ("{type: lokr}", ("peft", "kohya")),
    ("{type: oft, targets: linear}", ("peft",)),
    (LORA + "\n  text_encoder: {type: loha}", ("peft", "kohya")),
    (LORA + "\n  text_encoder: {type: oft}", ("peft",)),
])
def test_export_left_out_is_every_format_that_can_carry_the_adapters(load, good, adapter, formats) -> None:
    text = good.replace(LORA, adapter).replace("export: [diffusers, peft]\n", "")
    assert export_formats(load(text).recipe) == formats


def test_the_text_encoder_may_take_all_where_it_has_no_convolution(load, good) -> None:
    load(good.replace(LORA, "{type: lokr}\n  text_encoder: {type: oft, targets: all}").replace("diffusers, ", ""))


def test_formats_asked_for_are_kept(load, good) -> None:
    assert export_formats(load(good.replace("[diffusers, peft]", "[peft]")).recipe) == ("peft",)


@pytest.mark.parametrize(("adapter", "written", "possible", "refused"), [
    (LORA, ("diffusers", "peft", "kohya"), ("component", "merged", "single_file"), {"embedding": "carries a trigger"}),
    ("{type: lora, dora: true}", ("diffusers", "peft"), ("kohya", "component", "merged", "single_file"), {}),
    ("{type: lokr}", ("peft", "kohya"), ("component", "merged", "single_file"), {"diffusers": "carries LoRA only"}),
    ("{type: oft, targets: linear}", ("peft",), ("component", "merged", "single_file"),
     {"diffusers": "is of type oft", "kohya": "no names for what `adapt.denoiser` is: oft, which turns"}),
    ("{type: full}", ("component",), ("merged", "single_file"), {"peft": "which carries adapters", "kohya": "full"})])
def test_a_plan_says_which_formats_can_carry_it_and_why_not_the_others(load, good, adapter, written, possible,
                                                                       refused) -> None:
    from dbrun.ui.plan import exports_text

    found = export_options(load(good.replace(LORA, adapter).replace("export: [diffusers, peft]\n", "")).recipe, None)
    assert (found.written, found.possible) == (written, possible)
    assert all(words in found.refused[name] for name, words in refused.items())
    said = exports_text(found)
    assert said.startswith(f"exports {', '.join(written)}\n") and f"also name {', '.join(possible)}" in said
    assert found.refused and said.endswith(f"; not {', '.join(found.refused)}")
    assert len(said.splitlines()) == 2, "what can be asked for is no reason to scroll"
