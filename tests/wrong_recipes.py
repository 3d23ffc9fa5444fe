"""A good recipe, and what turns it into many wrong ones."""

GOOD = """\
schema: dbrun/v1
name: dog
base: {type: sd, path: embedded}
subject:
  images: embedded:sks_dog
  instance_prompt: a photo of sks dog
  class_prompt: a photo of a dog
prior: {count: 4}
images: {resolution: 64}
adapt:
  denoiser: {type: lora, rank: 16, targets: all}
train:
  steps: 300
  learning_rate: 1e-4
export: [diffusers, peft]
"""
PROMPT = "instance_prompt: a photo of sks dog"
END = "export: [diffusers, peft]\n"
# name → what stands in the good recipe, what replaces it
CHANGED = {
    "older_schema": ("dbrun/v1", "dbrun/v0"), "whole_number_with_an_exponent": ("steps: 300", "steps: 1e3"),
    "whole_number_with_a_point": ("resolution: 64", "resolution: 64.0"),
    "no_for_false": ("steps: 300", "tf32: no"), "flag_in_quotes": ("steps: 300", 'tf32: "true"'),
    "dollar_in_double_quotes": (PROMPT, 'instance_prompt: "a ${oc.env:HOME} dog"'),
    "escape_in_double_quotes": (PROMPT, r'instance_prompt: "a \${oc.env:HOME} dog"'),
    "folder_in_double_quotes": ("embedded:sks_dog", r'"C:\dogs"'),
    "misspelt_section": ("subject:", "subjekt:"), "misspelt_key": ("steps: 300", "stpes: 300"),
    "misspelt_key_in_braces": ("rank: 16", "rnak: 16"), "misspelt_key_of_base": ("path: embedded", "paht: embedded"),
    "misspelt_key_of_prior": ("count: 4", "cuont: 4"), "misspelt_key_of_images": ("resolution: 64", "resolutoin: 64"),
    "misspelt_component": ("denoiser:", "denoisr:"), "misspelt_extends": (END, END + "extend: a.yaml\n"),
    "misspelt_profiles": (END, END + "profile: {}\n"), "key_of_another_section": (END, END + "learning_rate: 1e-4\n"),
    "word_of_another_trainer": (END, END + "max_train_steps: 9\n"), "word_of_peft": ("rank: 16", "lora_alpha: 16"),
    "word_for_the_denoiser": ("denoiser:", "unet:"), "capitals": ("steps: 300", "Steps: 300"),
    "text_for_a_number": ("steps: 300", "steps: many"), "fraction_for_a_whole": ("steps: 300", "steps: 3.5"),
    "zero_steps": ("steps: 300", "steps: 0"), "negative_rate": ("1e-4", "-1e-4"), "rate_in_quotes": ("1e-4", "'1e-4'"),
    "rate_of_nan": ("1e-4", ".nan"), "rate_of_infinity": ("1e-4", "1e999"), "list_for_a_number": ("300", "[300]"),
    "mapping_for_a_number": ("steps: 300", "steps: {a: 1}"), "nothing_for_a_number": ("steps: 300", "batch_size:"),
    "text_for_a_section": ("prior: {count: 4}", "prior: yes"),
    "list_for_a_section": ("prior: {count: 4}", "prior: [4]"),
    "empty_prompt": ("a photo of sks dog", '""'), "blank_prompt": ("a photo of sks dog", '"  "'),
    "empty_path": ("images: embedded:sks_dog", 'images: ""'), "blank_path": ("path: embedded", 'path: " "'),
    "slip_in_a_key": ("steps: 300", "step: 300"),
    "flag_for_an_adapter": ("targets: all}", "targets: all}\n  text_encoder: true"),
    "flag_for_an_optimizer": ("steps: 300", "optimizer: true"),
    "long_warmup": ("steps: 300", "steps: 300\n  schedule: {type: cosine, warmup_steps: 300}"),
    "too_many_restarts": ("steps: 300", "steps: 9\n  schedule: {type: cosine_with_restarts, cycles: 10}"),
    "late_average": ("steps: 300", "steps: 300\n  ema: {update_after_step: 299}"),
    "resolution_too_small": ("64", "4"), "huge_number": ("300", "9" * 40), "wrong_family": ("type: sd", "type: sdxxl"),
    "wrong_schema": ("dbrun/v1", "dbrun/v2"), "name_with_a_slash": ("name: dog", "name: a/dog"),
    "export_twice": ("[diffusers, peft]", "[peft, peft]"), "wrong_device": (END, END + "device: gpu\n"),
    "wrong_seed": (END, END + "seed: -1\n"), "no_name": ("name: dog\n", ""), "no_path": (", path: embedded", ""),
    "wrong_union_tag": ("steps: 300", "steps: 300\n  schedule: {type: cosin}"),
    "no_union_tag": ("steps: 300", "steps: 300\n  schedule: {warmup_steps: 3}"),
    "key_of_another_member": ("steps: 300", "steps: 300\n  schedule: {type: constant, power: 2}"),
    "no_class_prompt": ("  class_prompt: a photo of a dog\n", ""), "no_prior": ("prior: {count: 4}\n", ""),
    "class_prompt_with_the_trigger": ("a photo of a dog", "a photo of sks dog"),
    "revision_of_a_folder": ("path: embedded", "path: embedded, revision: main"),
    "key_twice": ("steps: 300", "steps: 300\n  steps: 400"), "section_twice": (END, END + "images: {resolution: 32}\n"),
    "tab": ("  steps", "\tsteps"), "anchor": ("300", "&a 300"), "alias": ("300", "*a"), "tag": ("300", "!!int 300"),
    "merge_key": ("steps: 300", "<<: {steps: 300}"), "second_document": (END, END + "---\nseed: 1\n"),
    "open_bracket": ("peft]", "peft"), "open_quote": ("a photo of sks dog", "'a photo"),
    "colon_in_text": ("a photo of sks dog", "a photo: sks dog"), "reference_to_nothing": ("300", "${train.stops}"),
    "reference_in_a_circle": ("steps: 300", "steps: ${train.steps}"), "another_resolver": ("300", "${oc.env:HOME}"),
    "variable_not_declared": ("300", "${env:STEPS}"),
    "variable_not_set": ("name: dog", "env: [NOPE]\nname: '${env:NOPE}'"),
    "secret": ("name: dog", "env: [HF_TOKEN]\nname: dog"),
    "two_at_once": ("steps: 300", "stpes: 300\n  batch_size: none"),
    "wrong_in_a_profile": (END, END + "profiles: {ci: {train: {stepz: 1}}}\n"),
    "extends_nothing_there": ("schema: dbrun/v1", "extends: gone.yaml"),
    "extends_itself": ("schema: dbrun/v1", "extends: r.yaml"),
    "extends_a_number_list": ("schema: dbrun/v1", "extends: [[a]]"),
}
WORDS = {"override_of_an_unknown_key": "train.stepz=3", "override_of_a_wrong_type": "train.steps=many",
         "override_without_a_key": "=3", "override_with_a_hole": "train..steps=3",
         "override_of_extends": "extends=a.yaml",
         "profile_as_an_override": "profile=ci", "override_of_nothing_known": "frobnicate=1",
         "escape_on_the_command_line": r'subject.instance_prompt="a \${x} # 3"',
         "open_bracket_on_the_command_line": "export=[peft"}
