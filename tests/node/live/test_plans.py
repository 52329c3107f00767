"""A console plans on a running node, and aims."""

from __future__ import annotations

import numpy as np
import pyigtl
import pytest

from navnode.igtl import BlockingClient, Sensor, Trajectory, TrajectoryElement
from tests.node.live.consoles import until

pytestmark = pytest.mark.long


def test_a_console_plans_aims_and_hears_how_far_off_the_tool_is(live):
    supervisor, listener = live
    until(lambda: listener.status("DrillToVolume") == "OK", supervisor)
    port = supervisor.config.console.port
    with BlockingClient("127.0.0.1", port) as client:

        def answer(name: str, **parameters: str) -> tuple[str, str]:
            told = " ".join(f'{key}="{value}"' for key, value in parameters.items())
            said = client.command(name, f"<Command {told}/>").metadata
            return said["Status"], said["Message"]

        def numbers(at) -> str:
            return " ".join(f"{x:.3f}" for x in at)

        def line() -> tuple[np.ndarray, np.ndarray]:
            tip = listener.of("DrillToVolume")[-1].matrix[:3, 3]
            return tip - (0, 4, 0), tip - (0, 30, 0)

        elsewhere = answer("PlanAdd", Plan="L4", Entry="9000 0 0", Target=numbers(line()[1]))
        assert elsewhere[0] == "FAIL" and "outside the volume" in elsewhere[1]
        lines = []

        def planned() -> bool:
            """Whether the drill is where its line lies in the CT: it comes from outside."""
            lines.append(line())
            said = answer("PlanAdd", Plan="L4", Entry=numbers(lines[-1][0]), Target=numbers(lines[-1][1]))
            assert said[0] == "SUCCESS" or "outside the volume" in said[1], said
            return said[0] == "SUCCESS"

        until(planned, supervisor)
        entry, target = lines[-1]
        until(lambda: listener.of("PlanDeviation") and listener.of("Plans"), supervisor)
        other = TrajectoryElement("L5", tuple(entry), tuple(target))
        client.send(Trajectory(device="Plan", trajectories=(other,)))
        until(lambda: len(listener.of("Plans")[-1].trajectories) == 2, supervisor)
        assert [each.name for each in listener.of("Plans")[-1].trajectories] == ["L4", "L5"], "L4 is aimed at"
        until(lambda: len(judged(listener, entry, target)) > 100, supervisor)
        assert max(judged(listener, entry, target)) < 1e-2
        peer = pyigtl.OpenIGTLinkClient("127.0.0.1", port)
        assert peer.wait_for_message("DrillToVolume", 60) is not None
        peer.stop()
        assert answer("PlanRemove", Plan="L4")[0] == answer("PlanRemove", Plan="L5")[0] == "SUCCESS"
    until(lambda: not listener.of("Plans")[-1].trajectories, supervisor)


def judged(listener, entry, target) -> list[float]:
    """By how much what was said differs from what the tool's pose says, mm."""
    along = (target - entry) / np.linalg.norm(target - entry)
    poses = {m.timestamp_ns: m.matrix for m in listener.of("DrillToVolume") if m.metadata["TransformStatus"] == "OK"}
    off = []
    for said in listener.of("PlanDeviation"):
        pose = poses.get(said.timestamp_ns)
        if pose is None or said.metadata["Validity"] == "INVALID":
            continue
        assert isinstance(said, Sensor) and said.metadata["Plan"] == "L4" and said.metadata["Tool"] == "Drill"
        tip = pose[:3, 3] - entry
        lateral = np.linalg.norm(tip - (tip @ along) * along)
        depth = (target - pose[:3, 3]) @ along
        off.append(float(max(abs(said.values[0] - lateral), abs(said.values[2] - depth))))
        assert (said.values[3:] > 0).all()
    return off
