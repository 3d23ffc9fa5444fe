"""Does the engine `slurm` say the right words to Slurm, and read the right things from what it answers?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dbrun.api.request import RecipeRequest
from dbrun.engines import slurm
from dbrun.engines.base import DEFAULT_OUTPUTS, Job, JobReport, JobState, JobStatus
from dbrun.engines.slurm import SlurmEngine
from dbrun.errors import StageFailed, UsageError

SBATCH = """#!/bin/sh
if [ -e refuse ]; then echo "sbatch: error: Batch job submission failed: Invalid qos" >&2; exit 1; fi
n=$(($(ls jobs | wc -l) + 1))
mkdir jobs/$n; cat > jobs/$n/script; printf '%s\\n' "$@" > jobs/$n/options
echo "$n|PENDING|0:00|$(grep -e --comment= jobs/$n/options | cut -d= -f2)|None" >> queue
echo "$n;here"
"""
SQUEUE = """#!/bin/sh
if [ -e down ]; then echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; fi
cat queue
"""
ERROR = "train 3/10\nerror: the loss is not finite\n  → lower train.learning_rate\n"


def job(name: str, *needs: str) -> Job:
    request = RecipeRequest(Path("dog.yaml"), (f"name={name}",))
    return Job(name, ("train",), (name,), JobStatus.RUN, needs, 0, None, None, request, None, DEFAULT_OUTPUTS, "base")


class FakeCluster:
    """Programs of Slurm that write down what they are given, and answer what a test has written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "jobs").mkdir()
        (folder / "queue").touch()
        self.write("sbatch", SBATCH)
        self.write("squeue", SQUEUE)
        self.write("scancel", "#!/bin/sh\necho \"$*\" > cancelled\n")
        self.write("scontrol", "#!/bin/sh\n")

    def write(self, name: str, text: str) -> None:
        """A program on PATH."""
        (self.folder / "bin").mkdir(exist_ok=True)
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def options(self, number: int) -> list[str]:
        """Words that sbatch was given for its nth job."""
        return (self.folder / "jobs" / str(number) / "options").read_text().splitlines()

    def tell(self, *states: str) -> None:
        """The queue from now on: STATE or STATE|reason of the first job, the second, …; an empty text is no job."""
        lines = []
        for number, state in enumerate(states, 1):
            word, _, reason = state.partition("|")
            comment = [option for option in self.options(number) if option.startswith("--comment=")]
            tag = comment[0].removeprefix("--comment=")
            if word:
                lines.append(f"{number}|{word}|1-00:01:05|{tag}|{reason or 'None'}\n")
        (self.folder / "queue").write_text("".join(lines))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "SECONDS_BETWEEN_QUERIES", 0.0)
    return FakeCluster(tmp_path)


def submitted(store: Path, *jobs: Job) -> SlurmEngine:
    engine = SlurmEngine(store)
    engine.check()
    for one in jobs:
        engine.submit(one)
    return engine


JOBS = (job("load"), job("a", "load"), job("b", "load", "a"))


def states(engine: SlurmEngine) -> list[str]:
    return [engine.poll(0.0)[one.id].state.value for one in JOBS]


def test_each_job_is_submitted_once_after_those_that_it_needs(cluster: FakeCluster, tmp_path: Path) -> None:
    submitted(tmp_path / "100% store", *JOBS)
    assert "--dependency=afterok:1:2" in cluster.options(3) and "--requeue" in cluster.options(3)
    assert f"--output={tmp_path}/100%% store/slurm/b.log" in cluster.options(3)
    script = (tmp_path / "jobs/2/script").read_text()
    assert f"{sys.executable} -m dbrun run dog.yaml name=a &" in script
    # the same command again, when the first has ended: the others are followed, not submitted again
    cluster.tell("COMPLETED", "RUNNING", "PENDING|Dependency")
    again = submitted(tmp_path / "100% store", *JOBS)
    assert len(list((tmp_path / "jobs").iterdir())) == 4 and "--dependency=afterok:4:2" not in cluster.options(4)
    cluster.tell("COMPLETED", "RUNNING", "PENDING|Dependency", "RUNNING")
    assert states(again) == ["running", "running", "waiting"]
    submitted(tmp_path / "other store", job("a"))
    assert len(list((tmp_path / "jobs").iterdir())) == 5


TOLD: Sequence[tuple[tuple[str, ...], list[str], str]] = [
    (("COMPLETED", "RUNNING", "PENDING|Dependency"), ["done", "running", "waiting"], ""),
    (("COMPLETED", "FAILED", "CANCELLED"), ["done", "failed", "skipped"], "the loss is not finite"),
    (("COMPLETED", "OUT_OF_MEMORY", "CANCELLED"), ["done", "failed", "skipped"], "more memory than Slurm gave it"),
    (("COMPLETED", "CANCELLED", "PENDING"), ["done", "stopped", "waiting"], "Slurm says CANCELLED"),
    (("COMPLETED", "PENDING|launch failed requeued held", ""), ["done", "waiting", "stopped"], "scontrol release 2"),
    (("COMPLETED", "", "COMPLETED"), ["done", "stopped", "done"], "Slurm no longer knows it"),
]


@pytest.mark.parametrize(("queue", "expected", "text"), TOLD)
def test_what_slurm_says_of_jobs_is_reported(cluster: FakeCluster, tmp_path: Path, queue: tuple[str, ...],
                                             expected: list[str], text: str) -> None:
    engine = submitted(tmp_path, *JOBS)
    (tmp_path / "slurm" / "a.log").write_text(ERROR)
    cluster.tell(*queue)
    assert states(engine) == expected and text in engine.poll(0.0)["a"].text


def test_what_ended_during_the_submission_is_no_dependency(cluster: FakeCluster, tmp_path: Path) -> None:
    engine = submitted(tmp_path, *JOBS[:2])
    cluster.tell("COMPLETED", "PENDING")
    engine.submit(JOBS[2])
    assert "--dependency=afterok:2" in cluster.options(3)
    cluster.tell("COMPLETED", "FAILED", "PENDING")
    engine.submit(job("late", "a"))
    assert engine.poll(0.0)["late"] == JobReport(JobState.SKIPPED, "it needs a")
    assert len(list((tmp_path / "jobs").iterdir())) == 3


def test_the_error_of_a_failed_job_is_that_of_its_log(cluster: FakeCluster, tmp_path: Path) -> None:
    engine = submitted(tmp_path, *JOBS)
    cluster.tell("FAILED")
    (tmp_path / "slurm" / "load.log").write_text(ERROR)
    report = engine.poll(0.0)["load"]
    assert report == JobReport(JobState.FAILED, "the loss is not finite", "lower train.learning_rate", 86465.0)


def test_a_job_that_is_started_again_waits_and_runs_once_more(cluster: FakeCluster, tmp_path: Path) -> None:
    engine = submitted(tmp_path, *JOBS)
    told = []
    for state in ("RUNNING", "PENDING|BeginTime", "RUNNING", "COMPLETED"):
        cluster.tell(state)
        told.append(engine.poll(0.0)["load"])
    assert [(one.state.value, one.text, one.attempts) for one in told] == [
        ("running", "", 1), ("waiting", "Slurm starts it again", 1), ("running", "", 2), ("done", "", 2)]


def test_ended_jobs_that_left_the_queue_are_looked_up_in_the_accounting(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.write("sacct", "#!/bin/sh\necho '1|COMPLETED|00:01:05'\necho '2|CANCELLED by 1000|00:00:01'\n"
                           "echo '3|CANCELLED by 1000|00:00:00'\n")
    engine = submitted(tmp_path, *JOBS)
    cluster.tell("", "", "")
    assert states(engine) == ["done", "stopped", "skipped"]


def test_what_is_missing_is_told_before_anything_is_submitted(cluster: FakeCluster, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="found --gpus, and Slurm itself shares out GPUs"):
        SlurmEngine(tmp_path, gpus=2).check()
    (tmp_path / "down").touch()
    with pytest.raises(UsageError, match="Unable to contact slurm controller"):
        submitted(tmp_path, *JOBS)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs sbatch, squeue, scancel, scontrol"):
        submitted(tmp_path, *JOBS)
    assert not list((tmp_path / "jobs").iterdir())


def test_words_of_slurm_are_told(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = submitted(tmp_path, *JOBS[:1])
    (tmp_path / "refuse").touch()
    with pytest.raises(StageFailed, match="a: sbatch: error: Batch job submission failed: Invalid qos"):
        engine.submit(JOBS[1])
    (tmp_path / "down").touch()
    assert engine.poll(0.0)["load"].state is JobState.WAITING
    monkeypatch.setattr(slurm, "PATIENCE", -1.0)
    with pytest.raises(StageFailed, match="Unable to contact"):
        engine.poll(0.0)


def test_cancel_names_the_jobs_that_have_not_ended(cluster: FakeCluster, tmp_path: Path) -> None:
    engine = submitted(tmp_path, *JOBS)
    cluster.tell("COMPLETED", "RUNNING", "PENDING")
    engine.poll(0.0)
    engine.cancel()
    assert (tmp_path / "cancelled").read_text() == "2 3\n"
