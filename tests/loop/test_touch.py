"""A tip held on a point that somebody knows: how far it is shown from it, and when that is not measured."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.loop.touch import _POINT_SIGMA_MM, _bound_mm
from navnode.types import CommandResult, Operation, OperatorCommand, Status, ToolPose
from tests.loop.theatre import Theatre, of


class Held(Theatre):
    """The drill's tip rests where it is after four seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.run(4.0)
        pose = of(ToolPose, self.outputs)[-1]
        assert pose.validity.status is Status.VALID
        self.tip_mm = pose.volume_from_tool[:3, 3]

    def touch(self, point_mm: np.ndarray | None, tool: str = "") -> CommandResult:
        point = None if point_mm is None else tuple(map(float, point_mm))
        (result,) = of(CommandResult, self.feed(OperatorCommand(Operation.CHECK_TIP, tool, self.now_ns, point)))
        return result


def figures(text: str) -> tuple[float, float]:
    off, limit = (float(word) for word in text.split() if word.replace(".", "", 1).isdigit())
    return off, limit


def recent_mm(theatre: Theatre) -> np.ndarray:
    """Mean of the last half second's tips."""
    return np.mean([pose.volume_from_tool[:3, 3] for pose in of(ToolPose, theatre.outputs)[-50:]], axis=0)


@pytest.mark.parametrize("off_mm", [0.0, 0.6, 3.0])
def test_a_tip_that_rests_on_a_point_is_measured_from_it(off_mm, monkeypatch):
    monkeypatch.setattr("navnode.loop.touch.inside", lambda points_mm, volume: np.ones(len(points_mm), bool))
    monkeypatch.setattr("navnode.loop.touch._STILL_MM", 5.0)
    theatre = Held()
    result = theatre.touch(recent_mm(theatre) + (off_mm, 0, 0), "Drill")
    assert result.done and result.text.startswith("Drill is ")
    off, limit = figures(result.text)
    assert off == pytest.approx(off_mm, abs=0.15) and 1.0 < limit < 2.5
    assert ("more than the" in result.text) is (off_mm > limit)


def test_without_a_name_it_is_the_tool_that_the_slices_follow(monkeypatch):
    monkeypatch.setattr("navnode.loop.touch._STILL_MM", 5.0)
    theatre = Held()
    assert theatre.touch(np.zeros(3)).text.startswith("Drill is ")
    assert "there is no tool 'Saw'" in theatre.touch(np.zeros(3), "Saw").text


def test_a_tip_that_moves_is_not_measured(monkeypatch):
    monkeypatch.setattr("navnode.loop.touch._STILL_MM", 1e-3)
    result = Held().touch(np.zeros(3))
    assert not result.done and "hold it still" in result.text


@pytest.mark.parametrize("point_mm", [None, np.full(3, np.nan), np.full(3, 500.0)])
def test_a_point_that_is_nowhere_in_the_volume_is_refused(point_mm):
    result = Held().touch(point_mm)
    assert not result.done and ("outside the volume" in result.text or "no point" in result.text)


def test_a_tool_that_is_lost_is_not_where_it_was():
    theatre = Held()
    theatre.hidden = {"DrillToTracker"}
    theatre.run(0.3)
    result = theatre.touch(np.zeros(3))
    assert not result.done and "Drill is not shown" in result.text
    theatre.hidden = set()
    while not (theatre.run(0.01) and of(ToolPose, theatre.outputs)[-1].validity.usable):
        assert theatre.time_s < 8
    result = theatre.touch(np.zeros(3))
    assert not result.done and "too short a time" in result.text


def test_a_slow_trackers_last_poses_are_enough(monkeypatch):
    monkeypatch.setattr("navnode.loop.touch._STILL_MM", 5.0)
    monkeypatch.setattr("navnode.loop.touch._HELD_NS", 25_000_000)  # as if poses came every 125 ms
    assert Held().touch(np.zeros(3)).done


def test_what_a_tool_in_doubt_touches_is_measured_and_said_with_its_doubt(monkeypatch):
    monkeypatch.setattr("navnode.loop.touch._STILL_MM", 5.0)
    theatre = Held()
    theatre.xray = False
    theatre.run(20.0)
    pose = of(ToolPose, theatre.outputs)[-1]
    assert pose.validity.status is Status.DEGRADED
    result = theatre.touch(np.zeros(3))
    assert result.done and pose.validity.reason in result.text


def test_the_expected_distance_holds_95_of_100_touches():
    rng = np.random.default_rng(2)
    for sizes_mm in ([0.3, 0.3, 0.3], [0.3, 0.4, 3.0], [0.1, 2.0, 2.0]):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        covariance = turn @ np.diag(np.square(sizes_mm)) @ turn.T
        errors = rng.multivariate_normal(np.zeros(3), covariance + _POINT_SIGMA_MM**2 * np.eye(3), 20_000)
        held = np.mean(np.linalg.norm(errors, axis=1) <= _bound_mm(covariance))
        assert 0.94 < held < 0.96
