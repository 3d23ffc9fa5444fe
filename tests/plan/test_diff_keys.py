"""The reason for a rerun names what changed, old → new, in the recipe's words."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

import pytest

from dbrun.adapters.lora import Lora
from dbrun.plan.cache_key import make_stage_key
from dbrun.plan.diff_keys import _part_types, _recipe_key, key_changes, miss_reason
from dbrun.plan.reasons import KeyChanged, SimpleReason
from dbrun.recipe.schema.adapt import Adapt
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Stage, stages
from dbrun.stages.sources import Numerics, Picture
from dbrun.store.canonical import field_names

PLAIN = Adapt(denoiser=Lora(type="lora"))
RECIPE = {"train": {"rate": 1}, "adapt": {"denoiser": {"rank": 4}}}


@dataclass(frozen=True)
class Params:
    WORDS: ClassVar[dict[str, str]] = {"count": "prior.count", "pictures": "subject.images", "recipe": "",
                                       "adapt": "adapt", "others": "prior.images"}
    NEUTRAL: ClassVar[dict[str, object]] = {"accumulation": 1, "others": ()}
    count: int = 40
    steps: int = 300
    accumulation: int = 1
    rate: Any = 1.0
    adapt: Adapt = PLAIN
    pictures: tuple[Picture, ...] = (Picture("a" * 64, "one"), Picture("b" * 64, "two"))
    others: tuple[Picture, ...] = ()
    prompt: str = "a photo of a dog"
    recipe: Any = field(default_factory=lambda: RECIPE)
    export: tuple[str, ...] = ("peft",)
    identity: str = f"hub:a/b@{'c' * 40}"


class Train(Stage[Params]):
    NAME = "train"
    libraries = ("numpy",)


def question(params=Params(), inputs={"load": "a" * 64}, numerics=Numerics("cpu", 2)):
    return make_stage_key(Train(), params, inputs, numerics)


@pytest.mark.parametrize(("changed", "text"), [
    ({"count": 60}, "prior.count 40 → 60"),
    ({"steps": 400}, "train.steps 300 → 400"),
    ({"accumulation": 4}, "train.accumulation 1 → 4"),
    ({"rate": 1}, "train.rate 1.0 → 1"),
    ({"rate": None}, "train.rate 1.0 → unset"),
    ({"adapt": Adapt(denoiser=Lora(type="lora", rank=8))}, "adapt.denoiser.rank 4 → 8"),
    ({"adapt": Adapt(denoiser=Lora(type="lora", dropout=0.5))}, "adapt.denoiser.dropout 0.0 → 0.5"),
    ({"adapt": Adapt(denoiser=Lora(type="lora"), text_encoder=Lora(type="lora"))}, "adapt.text_encoder unset → lora"),
    ({"pictures": (*Params.pictures, Picture("c" * 64, "x"))}, "1 picture added"),
    ({"pictures": (*Params.pictures, Picture("c" * 64, "x"), Picture("d" * 64, "x"))}, "2 pictures added"),
    ({"pictures": Params.pictures[:1]}, "1 picture removed"),
    ({"pictures": (Params.pictures[0], Picture("c" * 64, "two"))}, "1 picture changed"),
    ({"pictures": (Picture("c" * 64, "x"), Picture("d" * 64, "x"), Picture("e" * 64, "x"))},
     "2 pictures changed, 1 picture added"),
    ({"pictures": (Params.pictures[0], Picture("b" * 64, "another"))}, "prompt of 1 picture changed"),
    ({"pictures": (Picture("a" * 64, "x"), Picture("b" * 64, "y"))}, "prompt of 2 pictures changed"),
    ({"pictures": (Picture("a" * 64, "one", ("uno",)), Picture("b" * 64, "two"))},
     "caption variants of 1 picture changed"),
    ({"pictures": (Picture("a" * 64, "one", (), 0.1), Picture("b" * 64, "two", (), 0.1))},
     "subject.captions.dropout 0.0 → 0.1"),
    ({"pictures": (Picture("a" * 64, "one", (), 0.1), Picture("b" * 64, "two"))},
     "caption dropout of 1 picture changed"),
    ({"pictures": (*Params.pictures, Picture("b" * 64, "two again"))}, "1 picture added"),
    ({"others": (Picture("c" * 64, "x"), Picture("d" * 64, "x"))}, "2 class pictures added"),
    ({"recipe": {**RECIPE, "prior": {"pictures": [{"digest": "c" * 64, "prompt": "x"}]}}}, "prior unset → set"),
    ({"prompt": "a photo of a cat"}, "train.prompt 'a photo of a dog' → 'a photo of a cat'"),
    ({"recipe": {**RECIPE, "train": {"rate": 1, "accumulation": 2}}}, "train.accumulation 1 → 2"),
    ({"recipe": {**RECIPE, "adapt": {"denoiser": {"rank": 4, "dropout": 0.5}}}}, "adapt.denoiser.dropout 0.0 → 0.5"),
    ({"recipe": {**RECIPE, "train": {"rate": 2}}, "rate": 2.0}, "train.rate 1.0 → 2.0, train.rate 1 → 2"),
    ({"recipe": {**RECIPE, "export": 1}}, "export unset → 1"),
    ({"export": ("peft", "diffusers")}, "train.export [peft] → [peft, diffusers]"),
    ({"identity": f"hub:a/b@{'d' * 40}"}, "train.identity hub:a/b@cccccccccc… → hub:a/b@dddddddddd…"),
])
def test_a_changed_param_is_told(changed, text):
    assert str(miss_reason(question(replace(Params(), **changed)), [question().document])) == text


def test_another_type_is_another_part_and_none_of_its_values_are_told():
    def asked(**rate):
        return question(Params(rate=rate))

    one, other = asked(type="adamw", beta1=0.9, beta2=0.999), asked(type="adafactor", clip_threshold=1.0, beta2=0.9)
    assert str(miss_reason(other, [one.document])) == "train.rate.type adamw → adafactor"
    assert str(miss_reason(asked(type="adamw", beta1=0.9, beta2=0.9), [one.document])) == "train.rate.beta2 0.999 → 0.9"


def keys_of(kind=Recipe, before=""):
    for name, found in kind.model_fields.items():
        yield before + name
        for inner in _part_types(found.annotation):
            yield from keys_of(inner, f"{before}{name}.")


def test_what_a_reason_names_can_be_written_in_a_recipe():
    allowed = {*keys_of(), "", "prompts encoded here", "text encoders that do not train", "pictures held out",
               "subjects.class_prompt", "class images drawn at once", "pictures drawn at once",
               "precision of class images"}
    found = {_recipe_key(name, f"{param}.denoiser" if param in ("learning_rates", "stops", "inits") else param, words)
             for name, stage in stages().items() for params in get_args(type(stage).__orig_bases__[0])
             for words in [params.WORDS] for param in field_names(params)}
    assert found <= allowed and len(found) > 30, sorted(found - allowed)


def test_a_feature_that_was_switched_off_again_is_told():
    old = question(replace(Params(), accumulation=4)).document
    assert str(miss_reason(question(), [old])) == "train.accumulation 4 → 1"


def test_prompts_that_all_changed_alike_are_the_instance_prompt():
    def asked(prompt):
        return question(replace(Params(), pictures=(Picture("a" * 64, prompt), Picture("b" * 64, prompt))))

    found = str(miss_reason(asked("a photo of xyz dog"), [asked("a photo of sks dog").document]))
    assert found == "subject.instance_prompt 'a photo of sks dog' → 'a photo of xyz dog'"


def test_prompts_of_class_pictures_that_all_changed_alike_are_the_class_prompt():
    def asked(prompt):
        return question(replace(Params(), others=(Picture("a" * 64, prompt), Picture("b" * 64, prompt))))

    assert str(miss_reason(asked("a cat"), [asked("a dog").document])) == "subject.class_prompt 'a dog' → 'a cat'"
    with_pictures = {**RECIPE, "prior": {"weight": 1.0, "pictures": [{"digest": "c" * 64, "prompt": "x"}]}}
    without = {**RECIPE, "prior": {"weight": 1.0}}
    now, old = (question(replace(Params(), recipe=recipe)) for recipe in (with_pictures, without))
    assert str(miss_reason(now, [old.document])) == "1 class picture added"


def test_another_mask_is_told_and_a_size_that_is_known_now_is_not():
    def asked(**changes):
        return question(replace(Params(), pictures=(Picture("a" * 64, "one", **changes), Picture("b" * 64, "two"))))

    assert str(miss_reason(asked(mask="c" * 64), [asked().document])) == "mask of 1 picture changed"
    assert key_changes(asked(size=(30, 40)), asked().document) == ()
    assert str(miss_reason(asked(repeats=3), [asked().document])) == "repeats of 1 picture changed"


def test_what_two_params_say_alike_is_told_once():
    now = replace(Params(), rate=2, recipe={**RECIPE, "train": {"rate": 2}})
    assert str(miss_reason(question(now), [question(replace(Params(), rate=1)).document])) == "train.rate 1 → 2"


def test_a_change_of_the_recipe_is_told_before_its_consequences():
    found = miss_reason(question(replace(Params(), steps=400), {"load": "b" * 64}), [question().document])
    assert str(found) == "train.steps 300 → 400, load gave another result"


def test_inputs_that_came_or_went_are_told():
    with_, without = {"load": "a" * 64, "generate-priors": "b" * 64}, {"load": "a" * 64}
    shorter, longer = question(inputs=without), question(inputs=with_)
    assert str(miss_reason(shorter, [longer.document])) == "without generate-priors now"
    assert str(miss_reason(longer, [shorter.document])) == "with generate-priors now"


def test_what_is_not_a_param_is_told(monkeypatch):
    old = question().document
    assert str(miss_reason(question(inputs={"load": "b" * 64}), [old])) == "load gave another result"
    assert str(miss_reason(question(numerics=Numerics("cpu", 4)), [old])) == "threads 2 → 4"
    assert str(miss_reason(question(numerics=Numerics("cuda", 0)), [old])) == "device cpu → cuda, threads 2 → unset"
    older = {**old, "libraries": {"numpy": "1.0"}}
    assert str(miss_reason(question(), [older])).startswith("numpy 1.0 → ")
    monkeypatch.setattr(Train, "VERSION", 2)
    assert str(miss_reason(question(), [old])) == "version of train 1 → 2"


def test_many_changes_are_counted_and_a_single_one_beyond_is_named():
    four = replace(Params(), count=1, steps=1, accumulation=2, rate=2.0)
    assert str(miss_reason(question(), [question(four).document])).endswith(", train.steps 1 → 300")
    assert str(miss_reason(question(), [question(replace(four, prompt="x")).document])).endswith("and 2 more")


def test_the_nearest_of_several_is_taken():
    far, near = replace(Params(), count=1, steps=1), replace(Params(), steps=200)
    found = miss_reason(question(), [question(far).document, question(near).document])
    assert str(found) == "train.steps 200 → 300"
    assert isinstance(found, KeyChanged) and found.changes[0].old == "200"


def test_pictures_that_a_cpu_now_draws_in_16_bits_say_so():
    class Draws(Train):
        def key_numerics(self, params, numerics):
            return {"drawing_precision": "bf16"}

    now = make_stage_key(Draws(), Params(), {"load": "a" * 64}, Numerics("cpu", 2))
    assert str(miss_reason(now, [question().document])) == "drawing_precision fp32 → bf16"


def test_without_an_earlier_result():
    assert miss_reason(question(), []) is SimpleReason.NO_EARLIER_RESULT
    assert key_changes(question(), question().document) == ()


def test_documents_of_unknown_shape_do_not_hurt():
    for document in ({}, {"params": None}, {"params": 3, "inputs": [], "numerics": "x"}):
        assert str(miss_reason(question(), [document]))


def test_what_could_have_gone_on_says_why_it_does_not():
    class Horizon(Train):
        def restarts_on(self, params):
            return {"steps": "it knows its end"}

    def text(**changed):
        now = make_stage_key(Horizon(), Params(**changed), {"load": "a" * 64}, Numerics("cpu", 2))
        return str(miss_reason(now, [question().document]))

    assert text(steps=400) == "train.steps 300 → 400; starts again: it knows its end"
    assert "anew" not in text(steps=400, rate=2.0) and "anew" not in text(rate=2.0)


def test_of_equally_few_changes_those_that_say_a_value_are_told() -> None:
    asked = question(replace(Params(), steps=400), {"load": "a" * 64})
    other, shorter = question(replace(Params(), steps=400), {"load": "b" * 64}), question(Params(), {"load": "a" * 64})
    for earlier in ([other, shorter], [shorter, other]):
        assert str(miss_reason(asked, [one.document for one in earlier])) == "train.steps 300 → 400"
