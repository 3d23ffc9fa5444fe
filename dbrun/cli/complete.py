"""What can be the next word of a command line? For the completion of shells."""

from __future__ import annotations

from pathlib import Path


def recipes(incomplete: str) -> list[str]:
    """Recipes in the folder that the word names so far, in recipes/, and folders on the way."""
    home = Path(incomplete[:incomplete.rfind("/") + 1])
    here, usual = ([*sorted(folder.iterdir())] if folder.is_dir() else [] for folder in (home, Path("recipes")))
    folders = [f"{path}/" for path in here if path.is_dir() and not path.name.startswith(".")]
    files = [str(path) for path in dict.fromkeys((*here, *usual)) if path.suffix in (".yaml", ".yml")]
    return [word for word in (*files, *folders) if word.startswith(incomplete)]


def keys(incomplete: str) -> list[str]:
    """Every key that a recipe can have, with the equals sign that follows it."""
    from dbrun.recipe.shape import everywhere

    return [f"{key}=" for key in everywhere() if key.startswith(incomplete)]


def recipes_and_keys(incomplete: str) -> list[str]:
    """Either of them."""
    return [*recipes(incomplete), *keys(incomplete)]


def stages(incomplete: str) -> list[str]:
    """Every stage that a recipe can have."""
    from dbrun.stages.base import stages as every

    return [name for name in every() if name.startswith(incomplete)]
