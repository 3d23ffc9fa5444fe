"""Is a family that is one new file found and tested without another edit?"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONTRACT = [str(Path(__file__).with_name(f"test_{name}_contract.py")) for name in ("family", "pipeline_files")]
MADE_UP = '''
"""Family `made_up`: Chroma, under another name."""

from dbrun.models.base import Sampling
from dbrun.models.chroma import Chroma, ChromaModel


class MadeUpModel(ChromaModel):
    """Base of a made-up family in memory."""


class MadeUp(Chroma):
    """A made-up family."""

    NAME = "made_up"
    model = MadeUpModel
    default_sampling = Sampling(steps=2, guidance=2.0)
'''
PLUGIN = '''
"""Lets dbrun find the families in a folder beside this file."""

from pathlib import Path

import dbrun.models

dbrun.models.__path__.append(str(Path(__file__).with_name("families")))
'''


@pytest.mark.slow
def test_one_file_in_a_folder_has_the_contract_tests_of_every_family(tmp_path: Path) -> None:
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "made_up.py").write_text(MADE_UP)
    (tmp_path / "with_made_up.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-p", "with_made_up", "-vv",
               "-m", "slow or not slow", "-k", "made_up or chroma", *CONTRACT]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert ran.returncode == 0, ran.stdout
    passed = {name: set(re.findall(rf"::(\w+)\[{name}\S*\] PASSED", ran.stdout)) for name in ("made_up", "chroma")}
    assert passed["made_up"] == passed["chroma"] and len(passed["made_up"]) > 20
