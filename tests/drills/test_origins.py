"""A device belongs to the source that sends it: nobody else moves it."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.config import SourceSection
from navnode.igtl import Arrival, Transform
from navnode.node.node import Node
from navnode.types import Rejected, SourceState, TrackedPose
from tests.loop.theatre import CT, configuration


class Console:
    """A client, as far as the node asks it anything."""

    def __init__(self, address: str) -> None:
        self.address = address


class Listening(Node):
    """A node whose loop only notes what reaches it."""

    def __init__(self, tmp_path, **more) -> None:
        super().__init__(configuration("procedural", **more), CT, f"ipc://{tmp_path}/w", f"ipc://{tmp_path}/o")
        self.fed: list[object] = []
        self._runner.feed = lambda message, arrival=None: self.fed.append(message) or []

    def console(self, name: str) -> Console:
        peer = Console(name)
        self.server.peers = [*self.server.peers, peer]
        return peer


def drill(mm: float) -> Transform:
    return Transform(device="DrillToTracker", timestamp_ns=9, matrix=g.rigid(None, (mm, 0.0, 1500.0)))


@pytest.mark.risk("foreign-sender")
def test_a_console_moves_no_tool_of_a_configured_tracker(tmp_path):
    node = Listening(tmp_path)
    node._from_source("tracker:1", drill(0), Arrival(1))
    node._from_console(drill(25), node.console("10.0.0.9:5"), Arrival(2))
    pose, refused = node.fed
    assert isinstance(pose, TrackedPose) and isinstance(refused, Rejected)
    assert refused.device == "10.0.0.9:5" and "DrillToTracker" in refused.reason
    node._from_console(Transform(device="Mine", timestamp_ns=1, matrix=np.eye(4)), node.console("c"), Arrival(3))
    assert len(node.fed) == 2, "what the loop does not listen to is nobody's business"


@pytest.mark.risk("foreign-sender")
def test_of_two_trackers_the_first_keeps_its_device_also_while_it_is_away(tmp_path):
    node = Listening(tmp_path)
    for mm, source in ((0.0, "a:1"), (25.0, "b:1"), (1.0, "a:1")):
        node._from_source(source, drill(mm), Arrival(1))
    assert [type(each) for each in node.fed] == [TrackedPose, Rejected, TrackedPose]
    assert "comes from a:1" in node.fed[1].reason
    node._origins.gone("a:1")
    for mm, source in ((25.0, "b:1"), (2.0, "a:1")):
        node._from_source(source, drill(mm), Arrival(1))
    assert [type(each) for each in node.fed[3:]] == [Rejected, TrackedPose], "it is back, and has what it had"


def test_the_operator_reconnects_where_a_device_shall_come_from_another_source(tmp_path):
    node = Listening(tmp_path)
    node._from_source("a:1", drill(0.0), Arrival(1))
    node._origins.gone("a:1")
    node._sources = [node._source(SourceSection(port=port)) for port in (1, 2)]
    assert "reconnecting" in node._reconnect({})
    for mm, source in ((2.0, "b:1"), (0.0, "a:1")):
        node._from_source(source, drill(mm), Arrival(1))
    assert [type(each) for each in node.fed] == [TrackedPose, TrackedPose, Rejected]
    assert "comes from b:1" in node.fed[-1].reason


def test_where_consoles_may_push_a_device_belongs_to_the_first(tmp_path):
    node = Listening(tmp_path, sources=[])
    first, second = node.console("c:1"), node.console("c:2")
    node._from_console(drill(0), first, Arrival(1))
    node._from_console(drill(25), second, Arrival(2))
    assert [type(each) for each in node.fed] == [SourceState, TrackedPose, Rejected]
    node._console_left(first, "closed")
    node._from_console(drill(3), second, Arrival(3))
    assert [type(each) for each in node.fed[3:]] == [SourceState, SourceState, TrackedPose]


def test_pushing_beside_a_source_is_for_the_configuration_to_allow(tmp_path):
    node = Listening(tmp_path, console={"may_push": True})
    node._from_console(drill(0), node.console("c:1"), Arrival(1))
    assert [type(each) for each in node.fed] == [SourceState, TrackedPose]


@pytest.mark.risk("foreign-sender")
def test_no_console_takes_a_device_over_while_its_source_connects_again(tmp_path):
    node = Listening(tmp_path, console={"may_push": True})
    node._from_source("tracker:1", drill(0), Arrival(1))
    node._origins.gone("tracker:1")
    node._from_console(drill(25), node.console("10.0.0.9:5"), Arrival(2))
    node._from_source("tracker:1", drill(1), Arrival(3))
    assert [type(each) for each in node.fed] == [TrackedPose, Rejected, TrackedPose]
    assert "configured source" in node.fed[1].reason


def test_a_console_that_leaves_before_it_pushed_anything_keeps_nothing(tmp_path):
    """As where its first image is still being corrected."""
    node = Listening(tmp_path, sources=[])
    first, second = node.console("c:1"), node.console("c:2")
    assert node._belongs(drill(0), first.address, Arrival(1), configured=False)
    node._console_left(first, "closed")
    node._from_console(drill(3), second, Arrival(2))
    assert isinstance(node.fed[-1], TrackedPose)
