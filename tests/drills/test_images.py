"""X-rays that repeat themselves, or are blurred: none of them says where the C-arm is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from navnode.simulation.scenario import PATIENT_DEVICE
from navnode.types import CArmPose, Frame, RegisteredFrame, Status
from tests.loop.theatre import Theatre, of


@pytest.mark.risk("frozen-input")
def test_the_same_pixels_under_new_stamps_are_no_xray():
    theatre = Theatre()
    theatre.run(2.0)
    dose, held = theatre.pipeline.state().dose.frames, theatre.image()
    theatre.image = lambda: held
    shown = of(RegisteredFrame, theatre.run(2.0))
    assert [frame.validity.status for frame in shown[1:]] == [Status.INVALID] * (len(shown) - 1)
    assert "the last one again" in shown[-1].validity.reason
    assert theatre.pipeline.state().dose.frames == dose + 1, "and gives no dose"
    assert of(CArmPose, theatre.outputs)[-1].volume_from_carm is None


@pytest.mark.risk("motion-during-exposure")
@pytest.mark.parametrize("stated", [True, False], ids=["stated", "the time between X-rays"])
def test_a_carm_that_moves_during_the_exposure_is_refused(stated):
    theatre = Theatre()
    theatre.exposure_ns = 80_000_000 if stated else None
    theatre.run(1.5)
    moving = of(RegisteredFrame, theatre.run(3.0))
    refused = [frame for frame in moving if "moved" in frame.validity.reason]
    assert len(refused) > 10 and all(frame.validity.status is Status.INVALID for frame in refused)
    standing = [frame for frame in moving if frame.validity.status is Status.VALID]
    assert standing, "between two positions it stands"
    theatre.exposure_ns = 5_000_000
    assert {frame.validity.status for frame in of(RegisteredFrame, theatre.run(6.0))} == {Status.VALID}


def test_what_the_configuration_says_counts_where_the_xray_says_nothing():
    theatre = Theatre(trust={"exposure_ms": 5.0})
    theatre.exposure_ns = None
    theatre.run(4.0)
    assert {frame.validity.status for frame in of(RegisteredFrame, theatre.run(6.0))} == {Status.VALID}


@pytest.mark.risk("motion-during-exposure")
def test_an_xray_of_a_carm_that_was_not_seen_is_refused_not_trusted():
    theatre = Theatre()
    theatre.run(2.0)
    theatre.hidden = {PATIENT_DEVICE}
    theatre.run(0.5)
    stamp = theatre.now_ns
    theatre.feed(dataclasses.replace(Frame(theatre.image(), stamp, stamp, 9), exposure_ns=50_000_000))
    assert of(RegisteredFrame, theatre.run(0.5))[-1].validity.status is Status.INVALID


@pytest.mark.risk("frozen-input")
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_an_exposure_that_a_frame_grabber_holds_is_one_however_noisy_the_grabber(noise):
    rng = np.random.default_rng(1)
    theatre = Theatre(trust={"held_noise": noise})

    def grabbed(exposed):
        return np.clip(np.rint(exposed + rng.normal(0, noise, exposed.shape)), 0, 255).astype(np.uint16)

    def exposed():
        return rng.normal(120, 4 * noise, (32, 32))

    theatre.image = lambda: grabbed(exposed())
    theatre.run(2.0)
    before, received = theatre.pipeline.state().dose.frames, theatre.pipeline.state().frames_received
    assert before == received, "every exposure counts"
    held = exposed()
    theatre.image = lambda: grabbed(held)
    theatre.run(2.0)
    assert theatre.pipeline.state().dose.frames == before + 1
    assert theatre.pipeline.state().frames_received > received + 10
