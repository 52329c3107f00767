"""Plans from consoles, commands and the case's file, and back into it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from navnode import geometry as g
from navnode.config import OutputsSection
from navnode.errors import ConfigError
from navnode.files.plans import read_plans, write_plans
from navnode.igtl import CommandError, Point, PointElement, Sensor, Trajectory, TrajectoryElement
from navnode.loop.plans import Plans
from navnode.node.consoles import Consoles
from navnode.node.plans import PlanDesk, kept_plans, plans_of
from navnode.types import (
    CommandResult,
    Plan,
    PlanCommand,
    PlanDeviation,
    PlanOperation,
    Status,
    Validity,
    Volume,
    invalid,
)
from tests.loop.theatre import Theatre

CT = Volume(np.zeros((30, 40, 50), np.float32), g.rigid(None, (-25.0, -20.0, -15.0)), "ct")
LEFT, RIGHT = Plan("left", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), Plan("right", (-1.0, 2.0, 3.0), (-4.0, 5.0, 6.0))


class Volumes:
    current = CT


class Loop:
    """Plans without the rest of the loop."""

    def __init__(self, path, **more) -> None:
        self.plans, self.told = Plans(), []
        self.desk = PlanDesk(path, self.ask, lambda: (*self.plans.present, CT), **more)

    def ask(self, told: PlanCommand) -> CommandResult:
        self.told.append(told)
        return self.plans.on_command(told, Volumes)


def numbers(at) -> str:
    return " ".join(map(str, at))


def add(loop: Loop, plan: Plan) -> str:
    told = {"Plan": plan.name, "Entry": numbers(plan.entry_mm), "Target": numbers(plan.target_mm)}
    return loop.desk.command(PlanOperation.ADD, told)


def test_plans_outlive_the_node(tmp_path):
    path = tmp_path / "plans.json"
    first = Loop(path)
    first.desk.begin(CT)
    assert "aimed at" in add(first, LEFT) and add(first, RIGHT)
    first.desk.command(PlanOperation.ACTIVATE, {"Plan": "right"})
    again = Loop(path)
    again.desk.begin(CT)
    assert again.plans.present == ((LEFT, RIGHT), "right")
    first.desk.command(PlanOperation.ACTIVATE, {})
    unaimed = Loop(path)
    unaimed.desk.begin(CT)
    assert unaimed.plans.present == ((LEFT, RIGHT), "")


def test_a_full_or_read_only_folder_loses_no_plan(tmp_path, monkeypatch):
    loop = Loop(tmp_path / "missing" / "plans.json")
    told = add(loop, LEFT)
    assert "not kept" in told and "cannot be written" in told
    assert loop.plans.present == ((LEFT,), "left")


@pytest.mark.parametrize(
    ("plans", "active", "said"),
    [
        ((LEFT, LEFT), "", "occurs twice"),
        ((LEFT,), "right", "no plan 'right'"),
        ((Plan("far", (1.0, 2.0, 3.0), (900.0, 0.0, 0.0)),), "", "outside the volume"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_start(tmp_path, plans, active, said):
    write_plans(tmp_path / "plans.json", plans, active, CT)
    with pytest.raises(ConfigError, match=said):
        Loop(tmp_path / "plans.json").desk.begin(CT)
    with pytest.raises(ConfigError, match=r"plans\.json"):
        kept_plans(tmp_path / "plans.json", CT)


def test_paths_of_a_console_become_plans_and_the_first_is_aimed_at(tmp_path):
    loop = Loop(tmp_path / "plans.json")
    both = [TrajectoryElement(plan.name, plan.entry_mm, plan.target_mm) for plan in (LEFT, RIGHT)]
    half = TrajectoryElement("half", LEFT.entry_mm, LEFT.target_mm, kind=1)
    loop.desk.from_console(Trajectory(device="Plan", trajectories=(*both, half)), "127.0.0.1:5")
    assert loop.plans.present == ((LEFT, RIGHT), "left")
    assert read_plans(tmp_path / "plans.json", CT).plans == (LEFT, RIGHT)


def test_two_points_are_entry_and_target():
    by_name = Point(
        device="Plan", points=(PointElement("Target", RIGHT.target_mm), PointElement("Entry", RIGHT.entry_mm))
    )
    in_order = Point(device="Plan", points=(PointElement("a", LEFT.entry_mm), PointElement("b", LEFT.target_mm)))
    assert plans_of(by_name) == [Plan("Plan", RIGHT.entry_mm, RIGHT.target_mm)]
    assert plans_of(in_order) == [Plan("Plan", LEFT.entry_mm, LEFT.target_mm)]
    assert plans_of(Point(device="Plan", points=(PointElement("a", LEFT.entry_mm),))) == []


def test_a_console_does_not_move_the_plan_under_a_hand():
    loop = Loop(None)
    add(loop, LEFT)
    moved = TrajectoryElement("left", RIGHT.entry_mm, RIGHT.target_mm)
    loop.desk.from_console(Trajectory(device="Plan", trajectories=(moved,)), "127.0.0.1:5")
    assert loop.plans.present == ((LEFT,), "left")


def test_a_replay_begins_with_the_plans_of_the_case_and_leaves_their_file_as_it_is(tmp_path):
    path = tmp_path / "plans.json"
    write_plans(path, (LEFT,), "left", CT)
    kept = path.read_bytes()
    replay = Loop(path, keep=False)
    replay.desk.begin(CT)
    assert "aimed at" in add(replay, RIGHT)
    replay.desk.command(PlanOperation.REMOVE, {"Plan": "left"})
    assert replay.plans.present[0] == (RIGHT,) and path.read_bytes() == kept


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_never_reaches_the_loop_whose_steps_are_recorded(bad):
    """In a recording it would be null, and the session unreadable from there on."""
    loop = Loop(None)
    nowhere = TrajectoryElement("left", (bad, 0.0, 0.0), LEFT.target_mm)
    loop.desk.from_console(Trajectory(device="Plan", trajectories=(nowhere,)), "127.0.0.1:5")
    (told,) = loop.told
    assert told.plan is None and not loop.plans.known
    with pytest.raises(CommandError, match="three numbers"):
        loop.desk.command(PlanOperation.ADD, {"Plan": "p", "Entry": f"{bad} 0 0", "Target": "4 5 6"})


@pytest.mark.parametrize("entry", ["", "1 2", "1 2 x", "1 2 3 4", "nan 1 2"])
def test_a_command_with_other_numbers_is_refused(entry):
    with pytest.raises(CommandError):
        Loop(None).desk.command(PlanOperation.ADD, {"Plan": "p", "Entry": entry, "Target": "4 5 6"})


def deviation(status: Status = Status.VALID) -> PlanDeviation:
    validity = Validity(status, "", 77) if status is not Status.INVALID else invalid("hidden", 77)
    known = status is not Status.INVALID
    values = (1.5, np.deg2rad(3.0), 20.0, 0.9, np.deg2rad(0.4), 1.1) if known else (None,) * 6
    return PlanDeviation("left", "Drill", *values, validity)


def test_consoles_get_six_numbers_and_nan_when_it_is_invalid():
    consoles = Consoles(OutputsSection())
    (shown,) = consoles(deviation())
    assert isinstance(shown, Sensor) and shown.device == "PlanDeviation" and shown.timestamp_ns == 77
    assert shown.values == pytest.approx([1.5, 3.0, 20.0, 0.9, 0.4, 1.1])
    assert shown.metadata["Plan"] == "left" and shown.metadata["Tool"] == "Drill"
    (gone,) = consoles(deviation(Status.INVALID))
    assert np.isnan(gone.values).all() and gone.metadata["Validity"] == "INVALID"
    (doubted,) = consoles(deviation(Status.DEGRADED))
    assert np.isfinite(doubted.values).all() and doubted.metadata["Validity"] == "DEGRADED"


def test_consoles_get_the_plans_when_they_change():
    theatre, consoles = Theatre(), Consoles(OutputsSection())
    state = theatre.pipeline.state()
    assert [message.trajectories for message in consoles(state) if isinstance(message, Trajectory)] == [()]
    planned = replace(state, plans=(LEFT, RIGHT), active_plan="right")
    _, sent = consoles(planned)
    assert isinstance(sent, Trajectory) and [each.name for each in sent.trajectories] == ["right", "left"]
    assert sent.trajectories[0].entry_mm == RIGHT.entry_mm and sent.trajectories[0].rgba != sent.trajectories[1].rgba
    assert len(consoles(planned)) == 1
    assert consoles(state)[1].trajectories == ()


def test_what_the_file_holds_is_for_people_too(tmp_path):
    write_plans(tmp_path / "plans.json", (LEFT,), "left", CT)
    document = json.loads((tmp_path / "plans.json").read_text())
    assert document["schema"] == "navnode/plans/1" and document["volume"]["size"] == [50, 40, 30]
