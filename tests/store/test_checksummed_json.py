"""A document with a mark is whole or it is nothing."""

import json
import random

import pytest

from dbrun.store.checksummed_json import dump_checksummed, read_checksummed

DOCUMENT = {"keys": {"load": "1" * 64}, "number": 1.0, "name": "x"}


def test_what_is_written_is_read(tmp_path):
    (tmp_path / "d").write_bytes(dump_checksummed(DOCUMENT))
    assert read_checksummed(tmp_path / "d") == {"format_version": 2, **DOCUMENT}


def test_every_flipped_bit_is_found(tmp_path):
    whole, chance = dump_checksummed(DOCUMENT), random.Random(0)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        (tmp_path / "d").write_bytes(flipped)
        assert read_checksummed(tmp_path / "d") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": 1, "sha256": "x"}', '{"a": NaN, "sha256": "x"}'])
def test_what_is_no_document_is_none(tmp_path, text):
    (tmp_path / "d").write_text(text)
    assert read_checksummed(tmp_path / "d") is None


def test_a_document_from_before_marks_is_taken_as_it_is(tmp_path):
    (tmp_path / "d").write_text(json.dumps(DOCUMENT))
    assert read_checksummed(tmp_path / "d") == DOCUMENT


def test_nothing_is_not_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checksummed(tmp_path / "d")
