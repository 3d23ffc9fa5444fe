"""What `dbrun new` writes: a recipe that runs as it stands and says what to change."""

from __future__ import annotations

import re
from pathlib import Path

from dbrun.config_types import NULL_WORDS
from dbrun.errors import UsageError
from dbrun.recipe.schema.model import NAME_PATTERN

TEMPLATE = """\
# A dbrun recipe. It runs as it stands, on the small base model and the pictures that come with dbrun:
#   dbrun run {place}
# Then put in your own folder of pictures, your own words and a larger base. `dbrun plan {place}` says
# what a change makes new; `dbrun validate {place}` checks the recipe and runs nothing.
schema: dbrun/v1
name: {name}

# The model that is personalised: `embedded`, a folder in diffusers format, or a Hub id with a pinned commit:
#   base: {{type: sd, path: stable-diffusion-v1-5/stable-diffusion-v1-5,
#          revision: 451f4fe16113bff5a5d2269ed5ad43b0592e9a14}}
base: {{type: sd, path: embedded}}

subject:
  # Four to ten pictures of one thing: a folder (relative to this file), such as `pictures/my_dog`.
  # A text file beside a picture (dog1.txt for dog1.jpg) is that picture's own prompt.
  images: embedded:sks_dog
  # captions: {{type: metadata}}   # or from metadata.jsonl, from the pictures' names (filename), or none (prompt)
  # A rare word, here "sks", comes to mean your subject.
  instance_prompt: a photo of sks dog
  class_prompt: a photo of a dog

# Pictures of the class, made by the base, so that "a dog" does not turn into your dog. Take it away for none.
prior: {{count: 40, weight: 1.0}}

# Side of the square pictures: 64 for the embedded base, 512 for Stable Diffusion 1.x.
images: {{resolution: 64}}

adapt:
  # targets: attention | attention+ff | linear | all | a list of module names
  denoiser: {{type: lora, rank: 16, alpha: 16, targets: all}}
  # text_encoder: {{type: lora, rank: 4, alpha: 4}}

# For Stable Diffusion 1.x rather: steps: 800, learning_rate: 1e-4, batch_size: 1, precision: fp16 (on a GPU).
train: {{steps: 300, learning_rate: 2.0e-3, batch_size: 5}}

# diffusers: one file for diffusers and other programs; peft: a folder for each adapted component.
export: [diffusers, peft]

# Every random draw follows from it: the same seed gives the same adapter.
seed: 0
"""


def starter_recipe(name: str, place: Path | None = None) -> str:
    """The text of a commented starter recipe of this name. Raises UsageError where it cannot be a name.

    place: of its file; left out, one of that name here.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"found the name '{name}', allowed: letters, digits, '.', '_' and '-', at most 64, "
                         "the first a letter or a digit", fix="dbrun new my_dog")
    return TEMPLATE.format(name=f'"{name}"' if name in NULL_WORDS else name, place=place or f"{name}.yaml")
