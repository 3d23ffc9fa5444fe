"""Are pictures that are asked for one by one drawn in whole blocks, each once?"""

from collections.abc import Sequence

import pytest

from dbrun.models.sampler import PictureBlocks


@pytest.mark.parametrize(("count", "size", "blocks"), [
    (5, 2, [[0, 1], [2, 3], [4, 4]]), (1, 4, [[0, 0, 0, 0]]), (4, 4, [[0, 1, 2, 3]]), (3, 1, [[0], [1], [2]])])
def test_blocks_have_one_size_and_are_drawn_once(count: int, size: int, blocks: list[list[int]]) -> None:
    drawn: list[list[int]] = []

    def draw(numbers: Sequence[int]) -> list[str]:
        drawn.append(list(numbers))
        return [f"picture {number}" for number in numbers]

    pictures = PictureBlocks(count, size, draw)  # type: ignore[arg-type]
    assert [pictures[number] for number in range(count)] == [f"picture {number}" for number in range(count)]
    assert drawn == blocks


def test_a_block_is_drawn_for_any_of_its_pictures() -> None:
    drawn: list[Sequence[int]] = []

    def draw(numbers: Sequence[int]) -> Sequence[int]:
        drawn.append(numbers)
        return numbers

    pictures = PictureBlocks(6, 4, draw)  # type: ignore[arg-type]
    assert pictures[5] == 5 and drawn == [[4, 5, 5, 5]]
