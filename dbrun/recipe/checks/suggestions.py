"""Suggestions for unknown words: the most similar key, the section of a known key, and keys of other trainers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

OTHER_TRAINERS_KEYS = {
    "lr": "train.learning_rate", "max_train_steps": "train.steps", "max_steps": "train.steps",
    "num_steps": "train.steps", "num_train_epochs": "train.epochs", "max_train_epochs": "train.epochs",
    "train_batch_size": "train.batch_size", "gradient_accumulation_steps": "train.accumulation",
    "mixed_precision": "train.precision", "dtype": "train.precision", "lr_scheduler": "train.schedule",
    "scheduler": "train.schedule", "lr_warmup_steps": "train.schedule.warmup_steps",
    "checkpointing_steps": "train.checkpoint_every", "save_every": "train.checkpoint_every",
    "checkpoints_total_limit": "train.keep", "model": "base.path", "model_name_or_path": "base.path",
    "pretrained_model_name_or_path": "base.path", "instance_data_dir": "subject.images",
    "dataset": "subject.images", "dataset_name": "subject.images", "train_data_dir": "subject.images",
    "caption_column": "subject.captions.column", "caption_extension": "subject.captions",
    "caption_dropout": "subject.captions.dropout", "caption_dropout_rate": "subject.captions.dropout",
    "proportion_empty_prompts": "subject.captions.dropout", "shuffle_caption": "subject.captions.shuffle",
    "shuffle_tags": "subject.captions.shuffle", "keep_tokens": "subject.captions.shuffle.keep",
    "caption_separator": "subject.captions.shuffle.separator", "trigger_word": "subject.trigger",
    "concepts": "subjects", "concepts_list": "subjects", "class_data_dir": "prior.images",
    "num_class_images": "prior.count", "prior_loss_weight": "prior.weight",
    "prior_generation_precision": "prior.precision", "guidance_scale": "prior.guidance", "size": "images.resolution",
    "unet": "adapt.denoiser", "transformer": "adapt.denoiser", "lora": "adapt.denoiser",
    "train_text_encoder": "adapt.text_encoder", "r": "adapt.denoiser.rank", "dim": "adapt.denoiser.rank",
    "network_dim": "adapt.denoiser.rank", "lora_rank": "adapt.denoiser.rank",
    "network_alpha": "adapt.denoiser.alpha", "lora_alpha": "adapt.denoiser.alpha",
    "placeholder_token": "adapt.trigger.token", "initializer_token": "adapt.trigger.initializer",
    "num_vectors": "adapt.trigger.vectors", "textual_inversion": "adapt.trigger",
    "target_modules": "adapt.denoiser.targets", "validation_prompt": "samples.prompts",
    "output_dir": "name", "prediction_type": "objective.prediction", "v_parameterization": "objective.prediction",
    "snr_gamma": "objective.weighting", "min_snr_gamma": "objective.weighting", "loss_type": "objective.distance",
    "rescale_betas_zero_snr": "objective.zero_terminal_snr",
    "ip_noise_gamma": "objective.input_perturbation", "multires_noise_discount": "objective.pyramid_noise",
    "multires_noise_iterations": "objective.pyramid_noise", "huber_c": "objective.distance",
    "use_8bit_adam": "train.optimizer", "optimizer_type": "train.optimizer", "optim": "train.optimizer",
    "validation_split": "train.held_out", "val_split": "train.held_out",
    "early_stopping_patience": "train.held_out.patience",
    "report_to": "trackers", "log_with": "trackers", "sample_every_n_steps": "samples.every",
    "validation_steps": "samples.every",
    "use_ema": "train.ema", "ema_decay": "train.ema.decay", "allow_tf32": "train.tf32",
    "use_deterministic_algorithms": "train.deterministic",
    "lr_num_cycles": "train.schedule", "lr_power": "train.schedule", "lr_scheduler_num_cycles": "train.schedule",
    "num_processes": "launch.processes", "nproc_per_node": "launch.processes", "world_size": "launch.processes",
    "num_machines": "launch.machines", "nnodes": "launch.machines",
    "debiased_estimation_loss": "objective.weighting", "num_inference_steps": "prior.steps",
    "num_repeats": "subject.repeats", "enable_bucket": "images.buckets", "aspect_ratio_bucketing": "images.buckets",
    "min_bucket_reso": "images.buckets.min_side", "max_bucket_reso": "images.buckets.max_side",
    "bucket_reso_steps": "images.buckets.step", "center_crop": "images.crop", "random_crop": "images.crop",
    "random_flip": "images.flip", "flip_aug": "images.flip", "masked_loss": "images.masks",
    "masked_training": "images.masks", "alpha_mask": "images.masks",
}
"""Key of another trainer, in lower case → the recipe's dotted key for the same setting."""


MAX_SUGGESTIONS = 50
"""Problems of a recipe for which the word that was meant is looked for: a search takes milliseconds, and a file can
have 12,000 wrong keys."""
MAX_CANDIDATES = 2000
"""Words that one search compares at most."""
OTHER_TOOLS_VALUES = {
    "gpu": "cuda", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float32": "fp32", "float": "fp32",
    "csv": "metadata", "jsonl": "metadata", "txt": "sidecar",
}
"""Value of another tool, in lower case → the recipe's word for it; letters alone would take `gpu` for `cpu`."""
SLIP = 0.8
"""Similarity from which a word is taken for a slip of the pen: `step` for `steps` (0.89)."""
ELSEWHERE = 0.7
"""Least similarity of a key of another place: among hundreds of keys one is always a little alike, such as
`held_out` for `hello` (0.62)."""


def nearest(word: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The allowed word most similar to this one, ignoring case; None where none is similar.

    cutoff: least similarity, from 0 to 1: twice the letters in common, by the letters of both words.
    """
    # imported here: only a recipe with a mistake needs it
    from difflib import get_close_matches

    by_lower_case = {candidate.lower(): candidate for candidate in islice(allowed, MAX_CANDIDATES)}
    # difflib takes quadratic time, and a mistaken value can be a whole prompt
    close = get_close_matches(word.lower()[:200], list(by_lower_case), n=1, cutoff=cutoff)
    if not close:
        return None
    return by_lower_case[close[0]]


def nearest_value(word: str, allowed: Sequence[str]) -> str | None:
    """The allowed value that another tool writes as this word, or else the most similar one; None for neither."""
    translated = OTHER_TOOLS_VALUES.get(word.lower())
    if translated in allowed:
        return translated
    return nearest(word, allowed)


def join_with_or(words: Sequence[str]) -> str:
    """The words as text: `a, b or c`; empty for no words."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def unknown_key_message(path: str, here: Sequence[str], everywhere: Sequence[str], dotted: bool = False) -> str:
    """Message for an unknown key. path: its dotted key; here: the keys allowed beside it; everywhere: all dotted keys;
    dotted: whether to suggest keys with their path, as they are written on the command line.

    The order of the checks goes from certain to vague: a slip in a key of this place, a known key in a wrong place, a
    key of another trainer, and only then a word that is somewhat similar.
    """
    word = _last_name(path)
    homes = [key for key in everywhere if _last_name(key) == word]
    if path in homes:
        return f"unknown key with this `type`; allowed here: {', '.join(here)}"
    above = path[:len(path) - len(word)] if dotted else ""
    slip = nearest(word, here, SLIP)
    if slip:
        return f"unknown key; did you mean '{above}{slip}'?"
    if homes:
        # a key of a section is meant more often than the same word among the settings of one option
        depth = min(key.count(".") for key in homes)
        homes = [key for key in homes if key.count(".") == depth]
        return f"unknown key here; did you mean {_quote_words(homes)}?"
    if word.lower() in OTHER_TRAINERS_KEYS:
        return f"unknown key; here it is called '{OTHER_TRAINERS_KEYS[word.lower()]}'"
    near = nearest(word, here)
    if near:
        return f"unknown key; did you mean '{above}{near}'?"
    near = nearest(word, [_last_name(key) for key in everywhere], ELSEWHERE)
    if near:
        homes = [key for key in everywhere if _last_name(key) == near]
        return f"unknown key; did you mean {_quote_words(homes)}?"
    return f"unknown key; allowed here: {', '.join(here)}"


def _last_name(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _quote_words(words: Sequence[str]) -> str:
    # at most four: `type` alone would list a dozen places
    return join_with_or([f"'{word}'" for word in words[:4]])
