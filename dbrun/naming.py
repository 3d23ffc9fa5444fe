"""Names and patterns that several rooms share, each stated once: Hub ids, commits, checkpoints, metrics, recipes."""

from __future__ import annotations

import re

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A repository on the Hugging Face Hub: owner/name."""
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit of such a repository, written out."""
CHECKPOINT_NAME = re.compile(r"step-(?P<step>\d{8,})\.(?P<digest>[0-9a-f]{64})\.safetensors")
"""The name of a checkpoint: the steps that are done, and the sha256 of the file's bytes."""
METRICS_FILE = "metrics.jsonl"
"""A line of JSON for each step of a training, in its artifact and in the run's folder."""
YAML_SUFFIXES = (".yaml", ".yml")
"""The endings of the names of recipes."""
