"""A whole project, run once and shared by the tests that only read it; copies for those that change it."""

import shutil
from pathlib import Path

import pytest
from projects import SECRET, Project, lay_out


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose recipe has been run; tests only read it."""
    project = lay_out(tmp_path_factory.mktemp("finished"))
    project.dbrun("run", "tiny.yaml", env={"HF_TOKEN": SECRET, "HUGGING_FACE_HUB_TOKEN": SECRET})
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, free to be changed."""
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


@pytest.fixture
def fresh(finished: Project, tmp_path: Path) -> Project:
    """A copy of the project without its store and outputs."""
    shutil.copytree(finished.folder, tmp_path / "fresh", ignore=shutil.ignore_patterns(".dbrun", "outputs"))
    return Project(tmp_path / "fresh")
