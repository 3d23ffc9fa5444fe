"""Metadata by which other programs list an adapter: kohya's `ss_…`, and `modelspec.…` of Stability's specification.

A1111 shows name, base, tags and pictures from them, and hides files of another version of Stable Diffusion; ComfyUI's
and Civitai's managers read base and trigger. All of it follows from the recipe, its inputs and the file itself: a date
would make equal runs differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbrun.formats.adapter_header import network_entries
from dbrun.formats.recipe_facts import (
    adapter_steps,
    class_picture_count,
    fact,
    instance_prompts,
    known_recipes,
    tag_counts,
    training_pictures,
    training_summary,
    trigger_phrases,
)
from dbrun.formats.stamp import LEGACY_HASH, MODEL_HASH, data_digest, legacy_digest, write_metadata
from dbrun.models.configs import UNKNOWN_LICENCE
from dbrun.models.file_names import PublishedNames
from dbrun.safetensors_header import read_header

SPEC_VERSION = "1.0.1"
TITLE, NAME = "modelspec.title", "ss_output_name"
"""The entries with the run's name; a stored result has none of them, as its recipes can have several names."""
TRAINING_PREFIXES = ("ss_", "sshs_", "modelspec.")
"""Beginnings of the names of all entries that are written here."""
FILE_ENTRIES = ("ss_network_", "sshs_", "modelspec.hash_")
"""Beginnings of the names of those that describe the very file."""
ROOM_FOR_NAME = 256
"""Bytes that a header leaves free for the entries with the name, of 64 characters at most."""
ADAPTER_IMPLEMENTATION, CHECKPOINT_IMPLEMENTATION = "diffusers", "https://github.com/Stability-AI/generative-models"
"""Code whose names of layers the tensors of an adapter and of a checkpoint have."""
TRAIN_RATE = "train.learning_rate"
RECIPE_ENTRIES = {
    "ss_max_train_steps": "train.steps", "ss_batch_size_per_device": "train.batch_size",
    "ss_gradient_accumulation_steps": "train.accumulation", "ss_optimizer": "train.optimizer.type",
    "ss_lr_scheduler": "train.schedule.type", "ss_max_grad_norm": "train.max_grad_norm", "ss_seed": "seed",
    "ss_clip_skip": "base.clip_skip", "ss_prior_loss_weight": "prior.weight"}
"""Entry → the recipe's key whose value it has."""
PRECISION_NAMES = {"fp32": "no"}
"""`train.precision` → kohya's word for it, where it is another."""


def shown_metadata(path: Path, document: Mapping[str, Any], names: PublishedNames | None,
                   suffix: str) -> dict[str, str]:
    """All entries but those with a name, for a file that is written except for its metadata.

    document: the file's provenance; names: of the base, None for a base without published ones; suffix: of
    `modelspec.architecture`, such as `/lora`, empty for a whole checkpoint.
    """
    digest = data_digest(path)
    # A checkpoint has no `ss_…` entries: they make a reader take a file for an adapter.
    entries = {}
    if suffix:
        entries = {**_training_entries(document), **network_entries(path), MODEL_HASH: digest}
        if names is not None:
            entries |= {"ss_base_model_version": names.kohya, "ss_v2": str(names.is_v2)}
    if names is not None:
        implementation = ADAPTER_IMPLEMENTATION if suffix else CHECKPOINT_IMPLEMENTATION
        entries |= _spec_entries(document, names)
        entries |= {"modelspec.architecture": names.architecture + suffix, "modelspec.hash_sha256": f"0x{digest}",
                    "modelspec.implementation": implementation}
    return entries


def inherited_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Entries on the training in another program's file, for a file that is made from it."""
    return {key: value for key, value in metadata.items()
            if key.startswith(TRAINING_PREFIXES) and not key.startswith(FILE_ENTRIES)}


def set_name(path: Path, name: str) -> bool:
    """Write a name into the entries that have one; returns whether there are any, else the file stays as it is."""
    metadata = read_header(path).metadata
    named = {}
    if MODEL_HASH in metadata:
        named[NAME] = name
    if "modelspec.sai_model_spec" in metadata:
        named[TITLE] = name
    if not named:
        return False
    write_metadata(path, named)
    if MODEL_HASH in metadata:
        # Last, as the name counts in it.
        write_metadata(path, {LEGACY_HASH: legacy_digest(path)})
    return True


def _training_entries(document: Mapping[str, Any]) -> dict[str, str]:
    """kohya's entries on base, pictures and training; empty for an adapter whose recipe is not known."""
    recipe = document.get("recipe")
    if not recipe:
        return {}
    kind, _, base = str(fact(recipe, "base.identity")).partition(":")
    name = f"{kind}:{base[:12]}"
    if kind == "hub":
        name = base.partition("@")[0]
    pictures, side, rate = training_pictures(recipe), fact(recipe, "images.resolution"), fact(recipe, TRAIN_RATE)
    precision = fact(recipe, "train.precision")
    entries: dict[str, object] = {
        "ss_sd_model_name": name, "ss_resolution": f"({side}, {side})",
        "ss_num_train_images": sum(picture.get("repeats", 1) for picture in pictures),
        "ss_num_reg_images": class_picture_count(recipe), "ss_learning_rate": rate,
        "ss_unet_lr": _rate(recipe, "denoiser"), "ss_text_encoder_lr": _rate(recipe, "text_encoder"),
        "ss_mixed_precision": PRECISION_NAMES.get(precision, precision),
        "ss_steps": adapter_steps(document), "ss_training_comment": training_summary(document),
        "ss_tag_frequency": json.dumps({_picture_set(recipe): tag_counts(recipe)}),
        "ss_dataset_dirs": json.dumps({_picture_set(recipe): {"n_repeats": 1, "img_count": len(pictures)}})}
    entries |= {entry: fact(recipe, key) for entry, key in RECIPE_ENTRIES.items()}
    # As Python writes them, which is how kohya's readers know them.
    return {key: str(value) for key, value in entries.items() if value is not None}


def _rate(recipe: Mapping[str, Any], component: str) -> object:
    """Learning rate of a component; None if it has no adapter."""
    if not fact(recipe, f"adapt.{component}"):
        return None
    return fact(recipe, f"adapt.{component}.learning_rate") or fact(recipe, TRAIN_RATE)


def _spec_entries(document: Mapping[str, Any], names: PublishedNames) -> dict[str, str]:
    """The `modelspec.…` entries on the base and its use, without title, architecture and digest."""
    entries = {"modelspec.sai_model_spec": SPEC_VERSION, "modelspec.prediction_type": names.prediction}
    licence = str(document.get("licence") or UNKNOWN_LICENCE)
    if licence != UNKNOWN_LICENCE:
        entries["modelspec.license"] = licence
    recipes = known_recipes(document)
    phrases = [phrase for recipe in recipes for phrase in trigger_phrases(recipe)]
    prompts = [prompt for recipe in recipes for prompt in instance_prompts(recipe)]
    if phrases:
        entries["modelspec.trigger_phrase"] = ", ".join(dict.fromkeys(phrases))
    if prompts:
        entries["modelspec.usage_hint"] = f"Write it in a prompt such as: {prompts[0]}"
    recipe = document.get("recipe")
    # The rest is a fact of one training.
    if not recipe:
        return entries
    side = fact(recipe, "images.resolution")
    entries |= {"modelspec.resolution": f"{side}x{side}", "modelspec.description": training_summary(document),
                "modelspec.tags": "dreambooth"}
    prediction = fact(recipe, "objective.prediction")
    if prediction:
        entries["modelspec.prediction_type"] = str(prediction).removesuffix("_prediction")
    clip_skip = fact(recipe, "base.clip_skip")
    if clip_skip:
        entries["modelspec.encoder_layer"] = str(clip_skip)
    return entries


def _picture_set(recipe: Mapping[str, Any]) -> str:
    """Name of the pictures as kohya's trainers name folders: repeats, then the words for the subject."""
    return f"1_{', '.join(trigger_phrases(recipe)) or 'pictures'}"
