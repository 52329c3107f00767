"""Plans in the loop: what is aimed at, what is refused, and how the tool deviates."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.loop.plans import MOST_PLANS
from navnode.types import CommandResult, NodeState, Plan, PlanCommand, PlanDeviation, PlanOperation, Status, ToolPose
from tests.loop.theatre import Theatre, of

ALONG = Plan("along", (1.0, 1.0, 1.0), (1.0, 6.0, 1.0))
ACROSS = Plan("across", (1.0, 1.0, 1.0), (6.0, 1.0, 1.0))


def ask(theatre: Theatre, operation: PlanOperation, name: str = "", plan: Plan | None = None) -> CommandResult:
    asked = PlanCommand(operation, name, plan, "a test", theatre.now_ns)
    (result,) = of(CommandResult, theatre.feed(asked))
    return result


def added(theatre: Theatre, *plans: Plan) -> list[CommandResult]:
    return [ask(theatre, PlanOperation.ADD, plan.name, plan) for plan in plans]


def test_without_a_plan_there_is_no_deviation():
    theatre = Theatre()
    assert not of(PlanDeviation, theatre.run(4.0)) and theatre.pipeline.state().plan is None


def test_every_pose_of_the_tool_has_its_deviation_from_the_active_plan():
    theatre = Theatre()
    theatre.run(4.0)
    assert all(result.done for result in added(theatre, ALONG, ACROSS))
    state = theatre.pipeline.state()
    assert isinstance(state, NodeState) and state.plans == (ALONG, ACROSS) and state.plan == ALONG
    made = theatre.run(1.0)
    poses, deviations = of(ToolPose, made), of(PlanDeviation, made)
    assert len(deviations) == len(poses) > 80 and {each.plan for each in deviations} == {"along"}
    for pose, found in zip(poses, deviations, strict=True):
        assert found.validity == pose.validity and found.validity.status is Status.VALID
        tip, axis = pose.volume_from_tool[:3, 3], pose.volume_from_tool[:3, 2]
        assert found.lateral_mm == pytest.approx(np.hypot(tip[0] - 1, tip[2] - 1))
        assert found.depth_mm == pytest.approx(6 - tip[1])
        assert found.angle_rad == pytest.approx(np.arccos(axis[1]))
        assert 0.6 < found.lateral_95_mm < 6 and 0.6 < found.depth_95_mm < 6 and 0.002 < found.angle_95_rad < 0.1
    assert ask(theatre, PlanOperation.ACTIVATE, "across").done
    assert {each.plan for each in of(PlanDeviation, theatre.run(0.2))} == {"across"}
    assert ask(theatre, PlanOperation.ACTIVATE, "").done
    assert not of(PlanDeviation, theatre.run(0.2)) and len(theatre.pipeline.state().plans) == 2


def test_a_hidden_tool_deviates_by_nothing_that_is_known():
    theatre = Theatre()
    theatre.run(4.0)
    added(theatre, ALONG)
    theatre.run(0.5)
    theatre.hidden = {"DrillToTracker"}
    last = of(PlanDeviation, theatre.run(0.5))[-1]
    assert last.validity.status is Status.INVALID
    assert (last.lateral_mm, last.angle_rad, last.depth_mm, last.lateral_95_mm) == (None,) * 4


def test_what_is_doubted_is_marked_so():
    theatre = Theatre()
    theatre.run(4.0)
    added(theatre, ALONG)
    theatre.xray = False
    found = of(PlanDeviation, theatre.run(20.0))[-1]
    assert found.validity.status is Status.DEGRADED and found.lateral_mm is not None


def test_a_second_plan_waits_and_the_first_may_not_be_changed_under_a_hand():
    theatre = Theatre()
    first, second = added(theatre, ALONG, ACROSS)
    assert "aimed at" in first.text and "not aimed at: 'along' is" in second.text
    moved = Plan("along", (2.0, 1.0, 1.0), (2.0, 6.0, 1.0))
    (refused,) = added(theatre, moved)
    assert not refused.done and "activate another one" in refused.text
    assert theatre.pipeline.state().plan == ALONG
    assert ask(theatre, PlanOperation.ACTIVATE, "across").done
    (changed,) = added(theatre, moved)
    assert changed.done and moved in theatre.pipeline.state().plans
    (again,) = added(theatre, ACROSS)
    assert again.done, "the same once more is no change"


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan("p", (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)), "one point"),
        (Plan("p", (1.0, 1.0, 1.0), (1.0, 60.0, 1.0)), "target lies outside"),
        (Plan("p", (1.0, 1.0, float("inf")), (1.0, 6.0, 1.0)), "not a number"),
        (None, "no plan to add"),
    ],
)
def test_what_cannot_be_aimed_at_is_refused_and_nothing_is_lost(plan, said):
    theatre = Theatre()
    added(theatre, ALONG)
    result = ask(theatre, PlanOperation.ADD, "p", plan)
    assert not result.done and said in result.text
    assert theatre.pipeline.state().plan == ALONG and any(said in each for each in theatre.pipeline.state().notices)


def test_names_that_are_not_known_are_named():
    theatre = Theatre()
    added(theatre, ALONG)
    for operation in (PlanOperation.ACTIVATE, PlanOperation.REMOVE):
        result = ask(theatre, operation, "elsewhere")
        assert not result.done and "'elsewhere'" in result.text and "along" in result.text
    assert ask(theatre, PlanOperation.REMOVE, "along").done
    assert theatre.pipeline.state().plan is None and not theatre.pipeline.state().plans


def test_there_are_not_any_number_of_plans():
    theatre = Theatre()
    plans = [Plan(f"p{n}", (1.0, 1.0, 1.0), (1.0, 6.0, 1.0 + n / 100)) for n in range(MOST_PLANS + 1)]
    *most, last = added(theatre, *plans)
    assert all(result.done for result in most) and not last.done and str(MOST_PLANS) in last.text


def test_without_a_volume_nothing_can_be_planned():
    theatre = Theatre(ct=False)
    (refused,) = added(theatre, ALONG)
    assert not refused.done and "no volume" in refused.text
