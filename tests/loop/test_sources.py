"""Sources that fall silent or vanish take what came from them along."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.igtl.messages import Image, Transform
from navnode.loop.ingest import Ingest
from navnode.types import (
    PatientPose,
    SourceState,
    Status,
    Tick,
    ToolPose,
)
from tests.loop.theatre import SOURCE, Theatre, configuration, of


def test_a_source_that_vanishes_takes_everything_with_it():
    theatre = Theatre()
    theatre.run(4.0)
    gone = theatre.feed(SourceState(SOURCE, False, "closed the connection", theatre.now_ns))
    assert [o.validity.status for o in gone] == [Status.INVALID] * len(gone) and len(gone) >= 2
    theatre.feed(SourceState(SOURCE, True, "", theatre.now_ns))
    assert of(ToolPose, theatre.run(0.3))[-1].validity.status is Status.INVALID
    assert of(ToolPose, theatre.run(1.5))[-1].validity.status is Status.VALID


def test_silence_is_noticed_by_time_alone():
    theatre = Theatre()
    theatre.run(4.0)
    quiet = [o for k in range(120) for o in theatre.feed(Tick(theatre.now_ns + k * 20_000_000))]
    assert of(ToolPose, quiet)[0].validity.status is Status.INVALID
    assert of(PatientPose, quiet)[-1].validity.status is Status.INVALID


def test_a_console_that_pushed_and_left_takes_what_it_pushed_along():
    theatre = Theatre()
    theatre.feed(SourceState("127.0.0.1:5", True, "", theatre.now_ns))
    theatre.run(4.0)
    made = theatre.feed(SourceState("127.0.0.1:5", False, "it closed the connection", theatre.now_ns))
    assert of(ToolPose, made)[0].volume_from_tool is None
    assert set(theatre.pipeline.state().sources) == {SOURCE}


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        (Image(device="XRay_Tracker", voxels=np.zeros((1, 4, 4), np.uint16), ras_from_index=np.eye(4)), "XRay"),
        (Image(device="Xray", voxels=np.zeros((1, 4, 4), np.uint16), ras_from_index=np.eye(4)), "XRay"),
        (Transform(device="CarmToTracker", matrix=np.eye(4)), "CArmToTracker"),
        (Transform(device="StylusToReference", matrix=np.eye(4)), ""),
        (Image(device="Ultrasound", voxels=np.zeros((1, 4, 4), np.uint16), ras_from_index=np.eye(4)), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else value.device,
)
def test_a_device_whose_name_is_nearly_right_is_told_once(message, meant):
    ingest = Ingest(configuration())
    assert not ingest.listens_to(message)
    told = ingest.mistaken(message)
    assert told == (f"sends {message.device}, which is not configured: is it {meant}?" if meant else "")
    assert ingest.mistaken(message) == ""


def test_names_that_strangers_invent_are_not_kept_without_end():
    ingest = Ingest(configuration())
    for number in range(1_000):
        ingest.mistaken(Transform(device=f"Marker{number}", matrix=np.eye(4)))
    assert (
        ingest.mistaken(Image(device="XRay_Tracker", voxels=np.zeros((1, 4, 4), np.uint16), ras_from_index=np.eye(4)))
        == ""
    )
