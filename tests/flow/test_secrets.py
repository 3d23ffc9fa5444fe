"""Does a token that is set in the environment stay out of every file that a run writes?"""

from projects import SECRET, Project


def test_a_token_of_the_environment_is_in_no_file(finished: Project) -> None:
    """The exports, their records, the store with its events, traces and checkpoints."""
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert len(files) > 50 and {"outputs", ".dbrun"} <= {p.relative_to(finished.folder).parts[0] for p in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
