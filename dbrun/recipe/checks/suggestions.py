"""Which word was meant: the nearest key, where a key belongs, and what other trainers call it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    "guidance_scale": "prior.guidance", "size": "images.resolution",
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
"""Words of other trainers → the recipe's key for the same thing."""


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that looks most like this one, or None where none does."""
    from difflib import get_close_matches

    words = list(allowed)
    lower = {w.lower(): w for w in words}
    close = get_close_matches(word.lower()[:200], list(lower), n=1, cutoff=0.6)
    return lower[close[0]] if close else None


def join_with_or(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}" if words else ""


def unknown_key_message(path: str, here: Sequence[str], everywhere: Sequence[str]) -> str:
    """What to say of an unknown key. path: dotted; here: its level's keys; everywhere: all dotted keys."""
    word = path.rsplit(".", 1)[-1]
    homes = [key for key in everywhere if key.rsplit(".", 1)[-1] == word]
    if path in homes:
        return f"unknown key with this `type`; allowed here: {', '.join(here)}"
    if homes:
        # a setting of a choice is no home of a word that a section has
        homes = [key for key in homes if key.count(".") == min(other.count(".") for other in homes)]
        return f"unknown key here; did you mean {_quote_words(homes)}?"
    if word.lower() in OTHER_TRAINERS_KEYS:
        return f"unknown key; here it is called '{OTHER_TRAINERS_KEYS[word.lower()]}'"
    if near := nearest(word, here):
        return f"unknown key; did you mean '{near}'?"
    if near := nearest(word, {key.rsplit(".", 1)[-1]: key for key in everywhere}):
        return f"unknown key; did you mean {_quote_words([k for k in everywhere if k.rsplit('.', 1)[-1] == near])}?"
    return f"unknown key; allowed here: {', '.join(here)}"


def _quote_words(words: Sequence[str]) -> str:
    return join_with_or([f"'{word}'" for word in words[:4]])
