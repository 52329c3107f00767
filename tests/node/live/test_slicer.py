"""The Slicer module's client at a running node."""

from __future__ import annotations

import time

import numpy as np
import pytest
from NavnodeConsoleLib.client import Client
from NavnodeConsoleLib.console import Console

from tests.conftest import find_free_port
from tests.node.live.consoles import SIZE_PX, until
from tests.slicer.stage import Stage

pytestmark = pytest.mark.long


def test_the_slicer_module_shows_commands_and_withdraws(live):
    supervisor, _ = live
    stage = Stage()
    console, client = Console(stage), Client("127.0.0.1", supervisor.config.console.port)
    answers: list[tuple[bool, str]] = []

    def heard(condition) -> bool:
        messages = client.poll()
        if client.connected:
            console.hear(messages, time.monotonic())
        return condition()

    def is_shown() -> bool:
        placed = bool(stage.places) and stage.places[-1] is not None
        drawn = all(stage.models.get(name) is not None for name in ("DrillAxis", "BoneModel"))
        return placed and drawn and "Volume" in stage.volumes

    until(lambda: heard(is_shown), supervisor)
    assert stage.pictures["XRay"].voxels.shape == (1, SIZE_PX, SIZE_PX)
    bone = stage.models["BoneModel"]
    assert bone is not None and 1_000 < len(bone.polygons) // 4 <= 50_000
    assert console.state.status in ("VALID", "DEGRADED")
    source_to_detector_mm = supervisor.config.carm.geometry.source_to_detector_mm
    volume_from_carm = stage.transforms["CArmToVolume"]
    if volume_from_carm is not None:
        assert np.linalg.norm(stage.places[-1][:3, 3] - volume_from_carm[:3, 3]) < 1.2 * source_to_detector_mm
    client.command("RegistrationReject", {}, lambda done, text: answers.append((done, text)))
    until(lambda: heard(lambda: bool(answers) and stage.models["DrillAxis"] is None), supervisor)
    assert answers[0][0] and stage.transforms["DrillToVolume"] is None
    client.command("NoSuchCommand", {}, lambda done, text: answers.append((done, text)))
    until(lambda: heard(lambda: len(answers) == 2), supervisor)
    assert not answers[1][0] and answers[1][1]
    until(lambda: heard(is_shown), supervisor)
    client.close()


def test_nobody_there_is_told_and_tried_again():
    client = Client("127.0.0.1", find_free_port())
    deadline = time.monotonic() + 5
    while not client.trouble and time.monotonic() < deadline:
        client.poll()
        time.sleep(0.01)
    assert "ECONNREFUSED" in client.trouble and not client.connected
    answers: list[bool] = []
    client.command("Version", {}, lambda done, _: answers.append(done))
    assert answers == [False]
