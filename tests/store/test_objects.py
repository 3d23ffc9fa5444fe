"""Artifacts are complete, read-only, named by their content; damage is found and set aside."""

import os
import stat

import pytest

from dbrun.errors import StoreCorrupt
from dbrun.store.objects import Objects, find_damage, seal, sha256_of
from dbrun.store.traces import ArtifactFile, manifest_digest


@pytest.fixture
def objects(tmp_path):
    return Objects(tmp_path / "objects", tmp_path / "quarantine")


def folder(home, name, **files):
    path = home / name
    path.mkdir()
    for file, text in files.items():
        place = path / file.replace("__", "/")
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    return path


def test_a_folder_becomes_a_read_only_artifact(tmp_path, objects):
    made = folder(tmp_path, "out", a="1", sub__b="22")
    digest, files = objects.publish(made, durable=True)
    stands = objects.path(digest)
    assert not made.exists()
    assert (stands / "sub" / "b").read_text() == "22"
    assert {n: f.size for n, f in files.items()} == {"a": 1, "sub/b": 2}
    assert stat.S_IMODE((stands / "a").stat().st_mode) == 0o444
    assert find_damage(stands, files, sha256_of) == []


def test_the_digest_is_of_names_and_contents_not_of_modes_or_times(tmp_path, objects):
    one, two = folder(tmp_path, "one", a="1", b="2"), folder(tmp_path, "two", b="2", a="1")
    (two / "a").chmod(0o600)
    os.utime(two / "a", (1, 1))
    assert objects.publish(one, durable=True)[0] == objects.publish(two, durable=True)[0]
    assert not two.exists()
    other = [folder(tmp_path, "x", a="2", b="1"), folder(tmp_path, "y", a="1", c="2"), folder(tmp_path, "z", a="1")]
    assert len({objects.publish(o, durable=True)[0] for o in other}) == 3


def test_names_cannot_be_confused_with_contents():
    a = manifest_digest({"a": ArtifactFile(1, "x"), "b": ArtifactFile(1, "y")})
    assert a != manifest_digest({"a\x001\x00x\nb": ArtifactFile(1, "y")})


def test_a_damaged_twin_is_set_aside_and_replaced(tmp_path, objects):
    digest, _ = objects.publish(folder(tmp_path, "one", a="1"), durable=True)
    (objects.path(digest) / "a").chmod(0o644)
    (objects.path(digest) / "a").write_text("2")
    again, files = objects.publish(folder(tmp_path, "two", a="1"), durable=True)
    assert again == digest
    assert find_damage(objects.path(digest), files, sha256_of) == []
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_an_emptied_twin_is_replaced(tmp_path, objects):
    digest, _ = objects.publish(folder(tmp_path, "one", a="1"), durable=True)
    (objects.path(digest) / "a").unlink()
    objects.publish(folder(tmp_path, "two", a="1"), durable=True)
    assert (objects.path(digest) / "a").read_text() == "1"


def test_a_file_in_an_artifacts_place_is_replaced(tmp_path, objects):
    digest, _ = objects.publish(folder(tmp_path, "one", a="1"), durable=True)
    (objects.path(digest) / "a").unlink()
    objects.path(digest).rmdir()
    objects.path(digest).write_text("no folder")
    objects.publish(folder(tmp_path, "two", a="1"), durable=True)
    assert (objects.path(digest) / "a").read_text() == "1"


def test_damage_that_cannot_be_moved_away_is_said(tmp_path, objects, monkeypatch):
    digest, _ = objects.publish(folder(tmp_path, "one", a="1"), durable=True)
    (objects.path(digest) / "a").chmod(0o644)
    (objects.path(digest) / "a").write_text("2")
    monkeypatch.setattr(Objects, "quarantine", lambda self, digest: None)
    with pytest.raises(StoreCorrupt, match=digest):
        objects.publish(folder(tmp_path, "two", a="1"), durable=True)


@pytest.mark.parametrize(("damage", "deep", "said"), [
    (lambda p: p.write_text("x"), False, "has 1 bytes instead of 4"),
    (lambda p: p.unlink(), False, "is missing"),
    (lambda p: p.write_text("flip"), True, "other bytes"),
    (lambda p: (p.unlink(), p.symlink_to("/etc/hostname")), False, "no longer a plain file"),
])
def test_damage_is_found(tmp_path, damage, deep, said):
    made = folder(tmp_path, "out", file="good")
    files = seal(made)
    (made / "file").chmod(0o644)
    damage(made / "file")
    assert said in find_damage(made, files, sha256_of if deep else None)[0]


def test_an_artifact_without_files_still_has_its_folder(tmp_path, objects):
    digest, files = objects.publish(folder(tmp_path, "out"), durable=True)
    assert find_damage(objects.path(digest), files) == []
    objects.path(digest).rmdir()
    assert find_damage(objects.path(digest), files)


def test_links_are_no_part_of_an_artifact(tmp_path, objects):
    made = folder(tmp_path, "out", a="1")
    (made / "link").symlink_to("/etc")
    with pytest.raises(ValueError, match="link"):
        objects.publish(made, durable=True)


def test_a_digest_never_becomes_another_path(objects):
    for digest in ("../../etc", "", "A" * 64, "a" * 63):
        with pytest.raises(ValueError):
            objects.path(digest)
