"""Whoever looks for a secret in a text finds none."""

import pytest

from dbrun.secrets import REDACTED, redact_secrets

TOKEN = "hf_" + "Q7x" * 12


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY",
                                  "my_password"])
def test_values_of_variables_named_like_secrets_are_hidden(monkeypatch, name):
    monkeypatch.setenv(name, "s3cr3t-value")
    assert redact_secrets("401 for s3cr3t-value, s3cr3t-value") == f"401 for {REDACTED}, {REDACTED}"


def test_tokens_of_the_hub_are_hidden_wherever_they_come_from():
    assert redact_secrets(f"https://user:{TOKEN}@huggingface.co/x") == f"https://user:{REDACTED}@huggingface.co/x"


def test_other_words_stay(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "on")
    monkeypatch.setenv("HOME_FOLDER", "/home/somebody")
    assert redact_secrets("hf_hub_download on /home/somebody") == "hf_hub_download on /home/somebody"
