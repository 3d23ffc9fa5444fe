"""Is what did not grow with the work told from what did?"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from dbrun.events import Event, Progress
from dbrun.run.timing import StageTimer


@dataclass
class Items:
    new_count: int = 0
    used_keys: set[int] = field(default_factory=set)


@dataclass
class World:
    now: float = 0.0
    items: Items = field(default_factory=Items)
    heard: list[Event] = field(default_factory=list)

    def pace(self, share_to_make: float = 1.0, processes: int = 1) -> StageTimer:
        return StageTimer(self.heard.append, None, self.items, share_to_make=share_to_make,  # type: ignore[arg-type]
                          processes=processes, clock=lambda: self.now)

    def left(self) -> list[float | None]:
        return [event.seconds_left for event in self.heard if isinstance(event, Progress)]


def test_the_first_step_is_a_step_and_what_came_before_it_is_not() -> None:
    world = World()
    pace = world.pace()
    # 7 s until the base is there, 2 s a step, 3 s at the end
    for step in (1, 2, 3, 4):
        world.now = 7.0 + 2 * step
        pace(Progress("train", step, 4, "steps"))
    assert (pace.startup(18.0), pace.share) == (10.0, 1.0)
    assert [event.done for event in world.heard if isinstance(event, Progress)] == [1, 2, 3, 4]


def test_a_resumed_training_did_only_its_own_steps() -> None:
    world = World()
    pace = world.pace()
    for step in (97, 98, 99, 100):
        world.now += 2.0
        pace(Progress("train", step, 200, "steps"))
    assert (pace.startup(30.0), pace.share) == (22.0, 0.02)


@pytest.mark.parametrize("steps", [(), (100,)])
def test_one_step_or_none_tells_no_pace(steps: tuple[int, ...]) -> None:
    pace = World().pace()
    for step in steps:
        pace(Progress("train", step, 100, "steps"))
    assert pace.startup(53.0) is None
    assert pace.share == (0.01 if steps else None)


def test_single_items_that_were_found_are_no_work_and_the_first_that_is_made_waits_for_the_base() -> None:
    world = World()
    pace = world.pace()
    for done in range(7):
        pace(Progress("preprocess", done, 6, "items"))
        world.items.used_keys.add(done)
        if done in (2, 3, 4):
            world.items.new_count += 1
            world.now += 9.0 if done == 2 else 1.0
    assert pace.startup(12.0) == 9.0


def test_the_time_left_of_a_stage_goes_by_its_own_units() -> None:
    world = World()
    pace = world.pace()
    for step in (97, 98, 99, 100):
        world.now += 40.0 if step == 97 else 2.0
        pace(Progress("train", step, 200, "steps"))
    assert world.left() == [None, 204.0, 202.0, 200.0]


@pytest.mark.parametrize(("processes", "left"), [(1, [None, 2.0, 0.0]), (2, [None, 0.0, 0.0])])
def test_items_that_are_stored_take_no_time(processes: int, left: list[float | None]) -> None:
    world = World()
    pace = world.pace(share_to_make=3 / 9, processes=processes)
    for done in range(10):
        world.items.used_keys.add(done)
        if done > 6:
            world.items.new_count += 1
            world.now += 2.0
        pace(Progress("preprocess", done, 9, "items"))
    assert world.left()[-3:] == left
