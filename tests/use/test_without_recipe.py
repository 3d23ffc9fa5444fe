"""Do the messages of commands without a recipe name options, not keys?"""

import pytest

from dbrun.errors import RecipeError
from dbrun.formats.base import formats
from dbrun.models.base import families
from dbrun.use.without_recipe import in_options, without_recipe_keys


@pytest.mark.parametrize(("text", "expected"), [
    ("check `base.path` and `base.variant`; only safetensors", "check `--base`; only safetensors"),
    ("which takes no text_encoder on `base.type: sd`", "which takes no text_encoder on a base of type sd"),
    ("LoRA only, and `adapt.denoiser` is of type lokr", "LoRA only, and the denoiser is of type lokr"),
    ("leave it as it is", "leave it as it is")])
def test_keys_become_options(text: str, expected: str) -> None:
    assert in_options(text) == expected
    with pytest.raises(RecipeError) as caught, without_recipe_keys():
        raise RecipeError(text, fix=text)
    assert str(caught.value) == f"{expected}\n  → {expected}"


def test_no_key_is_left_in_the_reasons_of_any_format() -> None:
    from adapter_kinds import KINDS, make

    for family in families().values():
        for component in family.components:
            for kind in (*KINDS, "full"):
                reasons = [form.unsupported_reason(family, component, make(kind)) for form in formats().values()]
                left = [text for reason in reasons if reason for text in [in_options(reason)]
                        if "adapt." in text or "base." in text]
                assert left == []
