"""The virtual C-arm with a "send" button, and a gateway that takes its X-rays in."""

from __future__ import annotations

import time

import numpy as np
import pytest

from navnode.clock import now_ns
from navnode.config import DicomSource
from navnode.errors import ConfigError
from navnode.igtl import Image
from navnode.simulation.pushing import Pusher
from navnode.simulation.requests import SimulateRequest
from navnode.simulation.scenario import carm_of_size
from navnode.simulation.serving import simulate
from tests.gateways.served import free_port, gateway
from tests.patience import until

CARM = carm_of_size(256)


def xray(seed: int, **metadata: str) -> Image:
    counts = np.random.default_rng(seed).integers(0, 65_535, (1, 256, 256)).astype(np.uint16)
    at_ns = now_ns() // 1000 * 1000
    return Image(device="XRay", timestamp_ns=at_ns, voxels=counts, ras_from_index=np.eye(4), metadata=metadata)


def test_what_is_pushed_arrives_as_it_was():
    told: list[str] = []
    source = DicomSource(port=free_port(), listen_port=free_port(), callers=("CARM1",), stamps="header")
    made = []
    with gateway(source) as heard, Pusher("127.0.0.1", source.listen_port, CARM, told.append) as pusher:
        for seed in range(3):
            made.append(xray(seed, PositionerPrimaryAngle="30.5", PositionerSecondaryAngle="-4.25", ExposureTime="8"))
            pusher.push(made[-1])
            time.sleep(0.01)
        heard.until(lambda: len(heard.images) == 3)
        seen = [image for image, _ in heard.images]
    assert [image.timestamp_ns for image in seen] == [image.timestamp_ns for image in made]
    for image, pushed in zip(seen, made, strict=True):
        assert np.array_equal(image.voxels, pushed.voxels)
        assert {key: image.metadata[key] for key in pushed.metadata} == pushed.metadata
        assert float(image.metadata["DistanceSourceToDetector"]) == CARM.source_to_detector_mm
    assert pusher.sent == 3 and pusher.lost == 0
    assert told == [f"X-rays go to NAVNODE at 127.0.0.1:{source.listen_port}."]


def test_without_a_store_x_rays_are_lost_and_that_is_told_once():
    told: list[str] = []
    with Pusher("127.0.0.1", free_port(), CARM, told.append) as pusher:
        for seed in range(2):
            pusher.push(xray(seed))
        until(lambda: pusher.lost == 2, 30.0, lambda: told)
    assert pusher.sent == 0 and len(told) == 1 and "no DICOM store accepts CARM1 as NAVNODE" in told[0]


def test_a_store_that_refuses_is_told():
    told: list[str] = []
    source = DicomSource(port=free_port(), listen_port=free_port(), callers=("CARM1",), stamps="header")
    with gateway(source), Pusher("127.0.0.1", source.listen_port, CARM, told.append) as pusher:
        pusher.push(xray(0, PixelIntensityRelationship="LOG"))
        until(lambda: pusher.lost == 1, 30.0, lambda: told)
    assert told[1:] == ["the store refuses X-rays (C000)."]


@pytest.mark.parametrize("scene", ["beads,sweeps", "operation,beads", "", "beads,"])
def test_scenes_that_are_none_are_named(scene, tmp_path):
    with pytest.raises(ConfigError, match="no such scene"):
        simulate(SimulateRequest(port=free_port(), scene=scene), lambda settings: tmp_path, lambda line: None)


def test_an_address_that_is_none_is_named():
    with pytest.raises(ConfigError, match="--push"):
        SimulateRequest(push="nowhere")
