"""Single items are made once, bound to what made them, and made again when damaged or forced."""

from dataclasses import replace

import pytest

from dbrun.store.items import DiskItemCache, count_items
from dbrun.store.store import Store


@pytest.fixture
def items(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    work = tmp_path / "work"
    work.mkdir()
    return DiskItemCache(store, "preprocess", {"version": 1}, work, False, lambda text: None, lambda: None)


def again(items, **changes):
    """The items as the next process sees them."""
    return replace(items, _folders={}, **changes)


def maker(calls, text="x"):
    def make(folder):
        calls.append(1)
        (folder / "file").write_text(text)

    return make


def test_an_item_is_made_once(items):
    calls = []
    path = items.get({"index": 1}, maker(calls))
    assert (path / "file").read_text() == "x"
    assert items.get({"index": 1}, maker(calls)) == again(items).get({"index": 1}, maker(calls)) == path
    assert len(calls) == 1
    assert count_items(items.work) == 1


@pytest.mark.parametrize("changes", [{"common_key": {"version": 2}}, {"stage": "train"}])
def test_what_binds_an_item_parts_it_from_others(items, changes):
    calls = []
    items.get({"index": 1}, maker(calls))
    again(items, **changes).get({"index": 1}, maker(calls))
    assert len(calls) == 2


def test_keys_of_items_are_typed(items):
    calls = []
    for index in (1, 1.0, "1"):
        items.get({"index": index}, maker(calls))
    assert len(calls) == 3


def test_forced_items_are_made_again_once(items):
    calls = []
    items.get({"index": 1}, maker(calls))
    forced = again(items, from_scratch=True)
    forced.get({"index": 1}, maker(calls))
    forced.get({"index": 1}, maker(calls))
    assert len(calls) == 2


@pytest.mark.parametrize("bad", ["longer than before", "y"])
def test_a_damaged_item_is_made_again_and_said(items, bad):
    path = items.get({"index": 1}, maker([]))
    (path / "file").chmod(0o644)
    (path / "file").write_text(bad)
    said, calls = [], []
    fresh = again(items, warn=said.append)
    assert (fresh.get({"index": 1}, maker(calls)) / "file").read_text() == "x"
    assert len(calls) == 1 and "damaged" in said[0]


def test_a_failing_maker_leaves_nothing(items):
    def make(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        items.get({"index": 1}, make)
    assert list(items.store.scratch.iterdir()) == []
    assert count_items(items.work) == 0
    calls = []
    items.get({"index": 1}, maker(calls))
    assert len(calls) == 1


def test_an_item_made_from_something_that_changed_is_not_kept(items):
    def changed() -> None:
        raise RuntimeError("changed")

    calls = []
    with pytest.raises(RuntimeError):
        replace(items, check_inputs=changed).get({"n": 1}, maker(calls))
    items.get({"n": 1}, maker(calls))
    assert len(calls) == 2


def test_what_others_made_anew_is_trusted_once_it_may_be(items):
    calls = []
    items.get({"index": 1}, maker(calls))
    forced = again(items, from_scratch=True)
    forced.reuse_stored()
    forced.get({"index": 1}, maker(calls))
    assert len(calls) == 1
