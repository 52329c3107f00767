"""The simulation of rooms on cores: times that can be told by hand, and costs found again in runs that have them."""

import msgspec
import pytest

from navnode.bench import capacity
from navnode.bench.capacity import CHECKED, RUNS, Observed, fitted
from navnode.bench.simulated_rooms import Costs, Load, simulated
from navnode.commands.bench_figures import draw_capacity
from navnode.errors import ConfigError

pytest.importorskip("simpy")

COSTS = Costs(
    idle_percent=2.0,
    pose=0.1,
    xray_loop=1.0,
    xray=20.0,
    pose_message=0.01,
    xray_message=0.2,
    worker_percent=0.0,
    xray_spread=0.0,
    room_xray=10.0,
    room_pose=0.05,
)
QUIET = Load(xrays_hz=5, tools=1, consoles=0)


def observed(load: Load, costs: Costs = COSTS) -> Observed:
    """A run that costs exactly this, and in which a fifth of many X-rays is dropped."""
    registered_hz = load.xrays_hz * (0.8 if load.xrays_hz > 20 else 1.0)
    loop_ms = costs.pose * load.poses_per_s + costs.xray_loop * load.xrays_hz
    loop_ms += costs.pose_message * load.pose_messages_per_s
    return Observed(
        load=load,
        loop_percent=costs.idle_percent + loop_ms / 10,
        others_percent=(costs.xray + 2 * costs.xray_message * load.consoles) * registered_hz / 10,
        room_percent=(costs.room_xray * load.xrays_hz + costs.room_pose * load.poses_per_s) / 10,
        worker_percent=costs.worker_percent,
        beside_percent=30.0,
        registered_hz=registered_hz,
        xray_p50_ms=20.0,
        xray_p99_ms=40.0,
        overlay_p50_ms=0.5,
        overlay_p99_ms=1.0,
    )


def test_costs_are_found_again_in_runs():
    found = fitted([observed(load) for load in RUNS])
    for name in ("idle_percent", "pose", "xray_loop", "xray", "pose_message", "xray_message", "room_xray", "room_pose"):
        assert getattr(found, name) == pytest.approx(getattr(COSTS, name), rel=0.01), name
    assert found.xray_spread == pytest.approx(0.298, abs=0.01)  # the 99th percentile is twice the median


def test_an_idle_machine_takes_what_the_work_takes():
    """What threads share on two cores, the rest on one, after the loop's part and half a period of the tracker."""
    found = simulated(COSTS, QUIET, 1, 8)
    assert found.xray_p50_ms == pytest.approx(1.0 + 5.0 + 0.4 * 20 / 2 + 0.6 * 20, abs=1.0)
    assert found.overlay_p50_ms == pytest.approx(2 * 0.1 + 0.1, abs=0.05)  # after the markers
    assert found.registered == pytest.approx(1.0, abs=0.02) and found.shown == pytest.approx(1.0, abs=0.02)
    used_ms = 10 * COSTS.idle_percent + COSTS.pose * QUIET.poses_per_s + 5 * (COSTS.xray + COSTS.xray_loop)
    assert found.busy == pytest.approx(used_ms / 1000 / 8, rel=0.1)


def test_more_cores_are_never_slower_and_more_rooms_never_faster():
    load = Load(xrays_hz=15, tools=4, consoles=8)
    few, many = (simulated(COSTS, load, 4, cores, seconds=5) for cores in (2, 8))
    one = simulated(COSTS, load, 1, 2, seconds=5)
    assert few.xray_p99_ms > many.xray_p99_ms and few.busy > many.busy
    assert few.xray_p99_ms > one.xray_p99_ms and few.overlay_p99_ms >= one.overlay_p99_ms
    beside = simulated(COSTS, load, 1, 2, with_rooms=True, beside_percent=40, seconds=5)
    assert beside.busy > one.busy + 0.15 and beside.xray_p50_ms > one.xray_p50_ms


def test_volumes_are_computed_in_every_room():
    load = Load(xrays_hz=5, tools=1, consoles=0)
    busy = msgspec.structs.replace(COSTS, worker_percent=30.0)
    plain, with_volumes = (simulated(costs, load, 3, 8, seconds=8) for costs in (COSTS, busy))
    assert with_volumes.busy == pytest.approx(plain.busy + 3 * 0.3 / 8, abs=0.04)


def test_without_priority_the_loop_waits_like_others():
    load = Load(xrays_hz=15, tools=8, consoles=8)
    first, alike = (
        simulated(COSTS, load, 1, 2, with_rooms=True, beside_percent=80, loop_first=given, seconds=5)
        for given in (True, False)
    )
    assert alike.overlay_p99_ms > 1.2 * first.overlay_p99_ms


def test_an_overloaded_node_drops_old_values_instead_of_falling_behind():
    """Twice as much to send as there is time for: what is shown is fresh all the same."""
    load = Load(xrays_hz=5, tools=8, consoles=90)
    found = simulated(msgspec.structs.replace(COSTS, pose_message=0.014), load, 1, 4, seconds=5)
    assert found.shown < 0.7
    assert found.overlay_p99_ms < 50


def test_what_is_missing_is_said_before_anything_runs(monkeypatch):
    monkeypatch.setattr(capacity.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="simpy: pip install"):
        capacity.capacity(lambda load: pytest.fail("a run was started"), (1,), (0,), (2,), 2)


def test_a_whole_report_is_made_and_shown(capsys):
    loads = []

    def live(load: Load) -> Observed:
        loads.append(load)
        return observed(load)

    told = []
    report = capacity.capacity(live, (1,), (0, 8), (4,), 2, told.append)
    assert loads == [*RUNS, CHECKED] and len(told) == capacity.steps()
    assert [each.load.consoles for each in report.simulated] == [0, 8]
    draw_capacity(report)
    shown = capsys.readouterr().out
    assert "measured / simulated" in shown and "rooms" in shown
    assert msgspec.json.decode(msgspec.json.encode(report), type=capacity.Capacity) == report
