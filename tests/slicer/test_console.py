"""What the Slicer module shows and withdraws: the node's own outputs, as bytes, on a stand-in for the scene."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from NavnodeConsoleLib import wire
from NavnodeConsoleLib.console import SILENT_S, Console, slice_from_image

from navnode.config import OutputsSection
from navnode.igtl import PolyData, StatusMessage, Transform, encode
from navnode.node.consoles import Consoles
from navnode.simulation.scenario import carm_of_size
from navnode.types import (
    CArmPose,
    Frame,
    PlanDeviation,
    RegisteredFrame,
    Status,
    ToolPose,
    Validity,
    invalid,
)
from tests.slicer.stage import Stage

AT = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])
S = 1_000_000_000


class Theatre:
    """A node's consoles, and the module that hears them."""

    def __init__(self) -> None:
        self._clock = count(S, S // 100)
        self.sender = Consoles(OutputsSection(axis_hz=0), ["Drill"], lambda: next(self._clock))
        self.stage = Stage()
        self.console = Console(self.stage)
        self.now_s = 0.0

    def say(self, *outputs, after_s: float = 0.01, only: type | None = None) -> None:
        """Say outputs; ``only``: their messages of this kind."""
        messages = [message for output in outputs for message in self.sender(output)]
        self.hear(*(each for each in messages if only is None or isinstance(each, only)), after_s=after_s)

    def hear(self, *messages, after_s: float = 0.01) -> None:
        self.now_s += after_s
        self.console.hear(wire.Framer().feed(b"".join(encode(message, 2) for message in messages)), self.now_s)


def valid(ns: int, status: Status = Status.VALID) -> Validity:
    return Validity(status, "" if status is Status.VALID else "few X-rays", ns)


def tool(ns: int, validity: Validity | None = None) -> ToolPose:
    stated = validity or valid(ns)
    return ToolPose("Drill", AT if stated.usable else None, stated, 1)


def deviation(ns: int) -> PlanDeviation:
    return PlanDeviation("L4 left", "Drill", 1.5, 0.02, 30.0, 0.6, 0.01, 0.8, valid(ns))


@pytest.fixture
def theatre() -> Theatre:
    return Theatre()


def test_a_tool_is_drawn_and_withdrawn_at_once(theatre):
    theatre.say(tool(S))
    assert np.allclose(theatre.stage.transforms["DrillToVolume"], AT, atol=1e-4)
    assert theatre.stage.models["DrillAxis"] is not None
    theatre.say(tool(2 * S, invalid("hidden", 2 * S)))
    assert theatre.stage.transforms["DrillToVolume"] is None and theatre.stage.models["DrillAxis"] is None
    theatre.say(tool(3 * S))
    assert theatre.stage.models["DrillAxis"] is not None


def test_a_tool_that_is_not_repeated_vanishes_while_others_go_on(theatre):
    theatre.say(tool(S))
    theatre.say(CArmPose(AT, valid(2 * S)), after_s=0.9 * SILENT_S)
    assert theatre.stage.models["DrillAxis"] is not None
    theatre.say(CArmPose(AT, valid(3 * S)), after_s=0.9 * SILENT_S)
    assert theatre.stage.models["DrillAxis"] is None and theatre.stage.transforms["DrillToVolume"] is None
    assert theatre.stage.transforms["CArmToVolume"] is not None


def test_an_axis_that_comes_after_its_pose_was_withdrawn_is_not_drawn_and_one_that_comes_first_is(theatre):
    theatre.say(tool(S))
    theatre.say(tool(2 * S, invalid("hidden", 2 * S)))
    theatre.say(tool(3 * S), only=PolyData)
    assert theatre.stage.models["DrillAxis"] is None
    theatre.say(tool(3 * S), only=Transform)
    assert theatre.stage.models["DrillAxis"] is not None
    theatre.say(tool(4 * S, invalid("hidden", 4 * S)))
    theatre.say(tool(5 * S), only=PolyData)
    theatre.say(tool(6 * S), only=Transform, after_s=0.9 * SILENT_S)
    assert theatre.stage.models["DrillAxis"] is None


def test_a_node_that_does_not_say_how_it_is_is_not_valid(theatre):
    theatre.hear(StatusMessage(device="NodeStatus", code=1, metadata={"Validity": "VALID"}))
    assert theatre.stage.states[-1].status == "VALID"
    for n in range(3):
        theatre.say(tool((n + 1) * S), after_s=0.5 * SILENT_S)
    assert theatre.stage.states[-1].status == "INVALID"


def test_silence_withdraws_everything_that_has_a_place(theatre):
    theatre.say(tool(S), CArmPose(AT, valid(S)), deviation(S))
    theatre.say(after_s=1.5 * SILENT_S)
    stage = theatre.stage
    assert set(stage.transforms.values()) == {None} and stage.models["DrillAxis"] is None
    assert stage.deviations[-1] is None and stage.deviations[0] is not None
    assert stage.states[-1].status == "INVALID" and "says nothing" in stage.states[-1].text


def frame(ns: int, validity: Validity | None = None) -> RegisteredFrame:
    counts = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    return RegisteredFrame(Frame(counts, ns, 1), carm_of_size(256), AT, validity or valid(ns), 0.1, 0.9, None, 1)


def test_an_xray_stands_at_its_detector_with_the_pose_of_its_own_exposure(theatre):
    theatre.say(CArmPose(AT, valid(S)), frame(S))
    carm, place = carm_of_size(256), theatre.stage.places[-1]
    u, v = carm.principal_point_px
    du, dv = carm.pixel_spacing_mm
    middle_mm = ((127.5 - u) * du, (127.5 - v) * dv, carm.source_to_detector_mm, 1)
    assert np.allclose(place[:, 3], AT @ middle_mm, atol=1e-3)
    assert np.allclose(place[:3, :3], AT[:3, :3], atol=1e-6)
    assert theatre.stage.pictures["XRay"].voxels[0, 3, 4] == 3 * 256 + 4
    moved = AT.copy()
    moved[0, 3] += 50
    theatre.say(CArmPose(moved, valid(2 * S)))
    assert np.allclose(theatre.stage.places[-1], place), "the old X-ray went with the new pose"
    theatre.say(frame(2 * S))
    assert theatre.stage.places[-1][0, 3] == pytest.approx(place[0, 3] + 50, abs=1e-3)
    theatre.say(CArmPose(None, invalid("no X-ray came", 3 * S)))
    assert theatre.stage.places[-1] is None and theatre.stage.transforms["CArmToVolume"] is None


def test_an_xray_without_a_pose_is_seen_but_has_no_place(theatre):
    theatre.say(frame(S, invalid("not registered", S)))
    assert theatre.stage.places[-1] is None and "XRay" in theatre.stage.pictures


def test_deviation_has_its_intervals_and_marks(theatre):
    theatre.say(deviation(S))
    shown = theatre.stage.deviations[-1]
    assert (shown.plan, shown.tool, shown.degraded) == ("L4 left", "Drill", False)
    assert shown.lateral_mm == (1.5, 0.6) and shown.depth_mm == (30, 0.8)
    assert shown.angle_deg == pytest.approx((np.rad2deg(0.02), np.rad2deg(0.01)))
    theatre.say(replace(deviation(2 * S), validity=valid(2 * S, Status.DEGRADED)))
    assert theatre.stage.deviations[-1].degraded
    theatre.say(replace(deviation(3 * S), validity=invalid("hidden", 3 * S)))
    assert theatre.stage.deviations[-1] is None


def test_what_states_no_validity_is_not_shown(theatre):
    from navnode.igtl import Transform

    (message,) = wire.Framer().feed(encode(Transform(device="DrillToVolume", matrix=AT), 2))
    theatre.console.hear([message], 1.0)
    assert theatre.stage.transforms.get("DrillToVolume") is None


def test_the_middle_of_a_picture():
    image = wire.Image(np.zeros((1, 3, 5), np.uint8), np.diag([2.0, 4, 1, 1]))
    assert np.allclose(slice_from_image(image), [[1, 0, 0, 4], [0, 1, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]])
