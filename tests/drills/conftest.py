"""A theatre in memory in which all is VALID."""

import pytest

from navnode.types import Status, ToolPose
from tests.loop.theatre import Theatre, of


@pytest.fixture
def theatre() -> Theatre:
    theatre = Theatre()
    theatre.run(4.0)
    assert {pose.validity.status for pose in of(ToolPose, theatre.run(0.5))} == {Status.VALID}
    return theatre
