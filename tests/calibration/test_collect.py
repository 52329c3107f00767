"""Collected over OpenIGTLink while the operator moves: the same answers as from files."""

import contextlib
import json
import threading
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import collect
from navnode import cli
from navnode import geometry as g
from navnode.errors import NavError
from navnode.igtl import BlockingServer, Transform
from tests.calibration.scenes import TIP, pivoting, touching
from tests.conftest import find_free_port


@contextlib.contextmanager
def streaming(*devices):
    """A server that sends (name, poses), one pose of each every 4 ms, over and over."""
    over = threading.Event()
    with BlockingServer(port=find_free_port()) as server:

        def send() -> None:
            for n in range(100_000):
                if over.wait(0.004):
                    return
                stamp = time.time_ns()
                for name, poses in devices:
                    if n < len(poses):
                        server.publish(Transform(device=name, timestamp_ns=stamp, matrix=poses[n]))

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            yield server.port
        finally:
            over.set()
            sender.join()


def call(*arguments):
    result = CliRunner().invoke(cli.app, ["calibrate", *map(str, arguments), "--json"])
    if isinstance(result.exception, NavError):
        return 2, None, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout), result.stderr


def test_a_pivot_is_collected_until_it_is_enough():
    poses = pivoting(6000, np.random.default_rng(0))
    poses[100:110] = np.nan
    with streaming(("StylusToTracker", poses)) as port:
        code, document, error = call(
            "pivot", "--live", f"127.0.0.1:{port}", "--device", "StylusToTracker", "--seconds", "60"
        )
    assert code == 0, error
    assert np.linalg.norm(np.subtract(document["result"]["tip_mm"], TIP)) < 0.2
    assert 200 < document["quality"]["n_used"] < len(poses) / 2, "no longer than it takes"


def test_what_is_not_enough_when_the_time_is_over_fails():
    poses = pivoting(6000, np.random.default_rng(1), cone=0.05, turn=0.1)
    with streaming(("StylusToTracker", poses)) as port:
        code, document, _ = call(
            "pivot", "--live", f"127.0.0.1:{port}", "--device", "StylusToTracker", "--seconds", "2"
        )
    assert code == 1 and document["reason"].startswith("spread: ")


@pytest.mark.long
def test_points_of_a_patient_are_touched_in_their_order(tmp_path):
    rng = np.random.default_rng(2)
    volume = {f"p{n}": at for n, at in enumerate(rng.uniform(-60, 60, (5, 3)))}
    lines = ["label,x_mm,y_mm,z_mm", *(f"{k},{v[0]},{v[1]},{v[2]}" for k, v in volume.items())]
    (tmp_path / "planned.csv").write_text("\n".join(lines))
    volume_from_patient = g.exp(np.array([0.5, 0.2, 1, 100, 20, 30.0]))
    marker = g.exp(np.array([0.1, 0.2, 0.1, 100, 0, -1500.0]))
    path = g.transform(marker @ g.inverse(volume_from_patient), touching(list(volume.values()), rng))
    stylus = [g.rigid(None, tuple(at - TIP)) for at in path]
    stylus += [stylus[-1]] * 3000
    devices = ("--device", "stylus=StylusToTracker", "--device", "patient-marker=PatientToTracker")
    with streaming(("PatientToTracker", [marker] * 9000), ("StylusToTracker", stylus)) as port:
        code, document, error = call(
            "patient",
            "--volume-points",
            tmp_path / "planned.csv",
            "--live",
            f"127.0.0.1:{port}",
            *devices,
            "--tip",
            *TIP,
            "--seconds",
            "60",
        )
    assert code == 0, error
    assert document["quality"]["n_used"] == 5
    assert np.abs(np.subtract(document["result"]["volume_from_patient"], volume_from_patient)).max() < 1.0


@pytest.mark.long
def test_silence_is_told(monkeypatch):
    monkeypatch.setattr(collect, "_NOTHING_S", 1.0)
    code, _, error = call("pivot", "--live", f"127.0.0.1:{find_free_port()}", "--device", "StylusToTracker")
    assert code == 2 and "nothing received from StylusToTracker" in error
    code, _, error = call("pivot", "--live", ":5", "--device", "X")
    assert code == 2 and error.startswith("--live: ':5' is not HOST:PORT")
    assert call("pivot", "--live", "localhost:18944")[0] == 2
