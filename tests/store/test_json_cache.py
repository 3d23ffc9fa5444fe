"""A table of facts is shared between processes; when it is broken it is only empty."""

import os

import pytest

from dbrun.store.json_cache import JsonCache


def table(folder):
    return JsonCache(folder / "facts.table", folder / "tmp")


def test_facts_come_back(tmp_path):
    first = table(tmp_path)
    first.put("a", {"x": [1]})
    first.save()
    assert table(tmp_path).get("a") == {"x": [1]}
    assert table(tmp_path).get("b") is None


def test_writers_side_by_side_keep_each_others_facts(tmp_path):
    one, two = table(tmp_path), table(tmp_path)
    one.put("a", "1")
    two.put("b", "2")
    one.save()
    two.save()
    assert (table(tmp_path).get("a"), table(tmp_path).get("b")) == ("1", "2")


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:-1], lambda data: data.replace(b'"1"', b'"7"'), lambda data: b"\xff\xfe[",
    lambda data: data + b" ", lambda data: b"null"])
def test_a_damaged_table_is_an_empty_table(tmp_path, damage):
    first = table(tmp_path)
    first.put("a", "1")
    first.save()
    path = tmp_path / "facts.table"
    path.write_bytes(damage(path.read_bytes()))
    assert table(tmp_path).get("a") is None
    again = table(tmp_path)
    again.put("b", "2")
    again.save()
    assert table(tmp_path).get("b") == "2"


def test_a_table_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    first = table(tmp_path)
    first.put("a", "1")
    monkeypatch.setattr(os, "rename", refuse)
    first.save()
    assert first.get("a") == "1"


def test_saving_without_news_writes_nothing(tmp_path):
    first = table(tmp_path)
    first.get("a")
    first.save()
    assert not (tmp_path / "facts.table").exists()
