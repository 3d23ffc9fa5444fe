"""Wrong settings of the remote store are told at once, with what is allowed and the way out."""

import pytest

from dbrun.api.request import RecipeRequest
from dbrun.errors import UsageError
from dbrun.store.remote_settings import configured_remote


@pytest.mark.parametrize("environ", [{}, {"DBRUN_REMOTE": "off"}, {"DBRUN_REMOTE": ""},
                                     {"DBRUN_REMOTE": "memory://x", "DBRUN_REMOTE_MODE": "off"}])
def test_none_is_set_or_it_is_off(environ):
    assert configured_remote(environ) is None


@pytest.mark.parametrize(("mode", "writes"), [("", True), ("rw", True), ("ro", False)])
def test_the_mode_says_whether_runs_write(mode, writes):
    remote = configured_remote({"DBRUN_REMOTE": "memory://x/", "DBRUN_REMOTE_MODE": mode})
    assert not remote.writes, "only a run writes"
    remote.connect(lambda *told: None, lambda: 0)
    assert remote.url == "memory://x" and remote.writes == writes


def test_wrong_settings_name_the_way_out(golden):
    wrong = [{"DBRUN_REMOTE": "/mnt/shared"}, {"DBRUN_REMOTE": "bucket/prefix"}, {"DBRUN_REMOTE": "file://shared"},
             {"DBRUN_REMOTE": "memry://x"}, {"DBRUN_REMOTE": "memory://x", "DBRUN_REMOTE_MODE": "read"},
             {"DBRUN_REMOTE": "s3://key:secret-word@bucket/prefix"}]
    told = []
    for environ in wrong:
        with pytest.raises(UsageError) as caught:
            configured_remote(environ)
        told.append(str(caught.value))
    assert "secret-word" not in told[-1]
    golden("wrong", "\n".join(told))


def test_a_client_that_is_not_installed_is_named(monkeypatch):
    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(UsageError, match="not installed") as caught:
        configured_remote({"DBRUN_REMOTE": "s3://bucket"})
    assert caught.value.fix == "pip install 'dbrun[remote]'"


def test_a_request_opens_the_store_with_the_remote_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DBRUN_REMOTE", "memory://x")
    assert RecipeRequest(tmp_path / "r.yaml", store=tmp_path).open_store().remote.url == "memory://x"
    monkeypatch.setenv("DBRUN_REMOTE", "nonsense")
    with pytest.raises(UsageError, match="allowed: a URL"):
        RecipeRequest(tmp_path / "r.yaml", store=tmp_path).open_store()
