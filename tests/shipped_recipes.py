"""The recipes of `recipes/` whose base is on this machine or on the Hub."""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "recipes"
OWN_FILE = FOLDER / "sdxl_single_file.yaml"
"""The one recipe whose base is a file of the user's own: it has no lock, and no cache key without that file."""
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if path != OWN_FILE)
