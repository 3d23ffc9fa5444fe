"""Do eight captioned prints, without a word of their own, make prints of all that the model draws?"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import Project

from dbrun.embedded.making.screen_print import ink

RECIPE = Path(__file__).parents[2] / "recipes" / "captions.yaml"


def off_the_inks(row: Path) -> float:
    """How far the pixels of a row of samples are from the nearest colour that a print can have, on average."""
    inks = np.array([ink(level) for level in range(256)], dtype=float)
    pixels = np.concatenate([np.asarray(Image.open(path).convert("RGB"), dtype=float).reshape(-1, 3)
                             for path in sorted(row.glob("*.png"))])
    return float(np.mean([np.sqrt(((inks - pixel) ** 2).sum(1)).min() for pixel in pixels[::7]]))


@pytest.mark.slow
def test_what_is_drawn_comes_out_in_the_inks_of_the_prints(tmp_path: Path) -> None:
    Project(tmp_path).dbrun("run", str(RECIPE))
    samples = tmp_path / "outputs" / "captions" / "samples"
    base, adapted = (off_the_inks(samples / row) for row in ("base", "adapted"))
    assert adapted < 0.6 * base, f"{adapted} from the inks, the base {base}"
