import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from navnode import config
from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.loop import bus
from navnode.projector import Projector
from navnode.projector.grids import centered_grid
from navnode.reconstruction import engines
from navnode.security import curve
from navnode.types import CArm, ReconstructionRequest, View, Volume, VolumeReady, WorkerState

CARM = CArm(64, 64, (4.0, 4.0), 1000.0, (31.5, 31.5))


@pytest.fixture
def keys(tmp_path) -> Path:
    curve.create(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def node(keys):
    """A node's side: what it hears, by whom it lets in."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    bus.limited(socket, 16)
    guard = curve.listen(socket, keys / "node.key_secret", keys / "worker.key")
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    yield socket, port
    guard.stop()
    socket.close()
    context.term()


def heard(socket, kind, seconds: float):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if socket.poll(100):
            message = bus.unpack(socket.recv_multipart())
            if isinstance(message, kind):
                return message
    return None


def refused(monitor) -> bool:
    """Whether somebody has come to the socket's port and was not let in, waited for."""
    return bool(monitor.poll(60_000))


def refusals(socket):
    """A socket on which it is told whenever somebody was not let in."""
    return socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)


def request() -> ReconstructionRequest:
    grid = centered_grid((64,) * 3, 2.0, np.zeros(3))
    k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3]
    body = Volume(np.where(i**2 + j**2 + k**2 < 30**2, 400.0, -1000.0).astype(np.float32), grid)
    projector, views = Projector(body), []
    for orbital_deg in (0, 60, 120):
        at = g.pose_at(np.zeros(3), 650.0, orbital_deg=orbital_deg)
        views.append(View(projector.render(CARM, at), CARM, at))
    return ReconstructionRequest(7, tuple(views), (0.0, 0.0, 0.0), 32, 4.0)


def started(folder: Path, port: int, key: Path, node_key: Path, method: str = "auto") -> subprocess.Popen:
    file = folder / "gpu-worker.toml"
    keys = f'key = "{key}"\nnode_key = "{node_key}"\n'
    file.write_text(f'node = "127.0.0.1:{port}"\n{keys}threads = 1\nmethod = "{method}"\n')
    return subprocess.Popen([sys.executable, "-m", "navnode", "worker", str(file)], stderr=subprocess.PIPE, text=True)


@pytest.mark.long
def test_a_worker_elsewhere_serves_the_node_whose_keys_it_has(keys, node, tmp_path):
    socket, port = node
    worker = started(tmp_path, port, keys / "worker.key_secret", keys / "node.key")
    try:
        assert heard(socket, WorkerState, 60).alive
        socket.send_multipart(bus.pack(request()))
        ready = heard(socket, VolumeReady, 60)
        assert ready.request == 7 and ready.volume.voxels.shape == (32, 32, 32)
        assert ready.volume.spacing_mm == pytest.approx((4, 4, 4))
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.skipif(not engines.would_load(), reason="no engine runs the networks here")
@pytest.mark.long
def test_a_worker_may_be_told_to_use_the_networks(keys, node, tmp_path):
    socket, port = node
    worker = started(tmp_path, port, keys / "worker.key_secret", keys / "node.key", "learned")
    try:
        state = heard(socket, WorkerState, 60)
        assert state.engine.startswith("learned (") and "fp" in state.engine
        socket.send_multipart(bus.pack(request()))
        ready = heard(socket, VolumeReady, 60)
        assert ready.method == state.engine and ready.volume is not None
        assert ready.uncertainty_hu is not None and (ready.uncertainty_hu.voxels > 0).all()
    finally:
        worker.kill()
        worker.wait()


def test_another_key_is_not_let_in(keys, node, tmp_path):
    socket, port = node
    curve.create(tmp_path / "others")
    monitor = refusals(socket)
    worker = started(tmp_path, port, tmp_path / "others" / "worker.key_secret", keys / "node.key")
    try:
        assert refused(monitor) and heard(socket, WorkerState, 0.5) is None
    finally:
        socket.disable_monitor()
        worker.kill()
        worker.wait()


def test_without_a_key_nobody_is_let_in(node):
    socket, port = node
    monitor = refusals(socket)
    stranger = socket.context.socket(zmq.DEALER)
    bus.limited(stranger, 4)
    stranger.connect(f"tcp://127.0.0.1:{port}")
    stranger.send_multipart(bus.pack(WorkerState(True, "x", "", 0, 1)))
    assert refused(monitor) and heard(socket, WorkerState, 0.5) is None
    socket.disable_monitor()
    stranger.close()


def test_keys_that_cannot_be_used_are_named(keys, tmp_path):
    with pytest.raises(ConfigError, match="not overwritten"):
        curve.create(keys)
    with pytest.raises(ConfigError, match="contains no secret key"):
        curve.check(keys / "node.key", keys / "worker.key")
    with pytest.raises(ConfigError, match="no such key"):
        curve.check(keys / "node.key_secret", tmp_path / "none.key")
    (tmp_path / "text.key").write_text("no key at all")
    with pytest.raises(ConfigError, match="not a key"):
        curve.check(keys / "node.key_secret", tmp_path / "text.key")
    if os.name == "posix":
        assert (keys / "node.key_secret").stat().st_mode & 0o077 == 0
        (keys / "node.key_secret").chmod(0o644)
        with pytest.raises(ConfigError, match="others can read"):
            curve.check(keys / "node.key_secret", keys / "worker.key")


def test_the_configurations_name_their_keys_beside_them(tmp_path):
    loaded = config.load_worker("gpu-worker.toml")
    assert loaded.node.endswith(":18946") and Path(loaded.key).is_absolute()
    text = config.find("demo.toml").read_text()
    (tmp_path / "node.toml").write_text(
        text + '\n[reconstruction.remote]\nkey = "k/node.key_secret"\nworker_key = "k/worker.key"\n'
    )
    remote = config.load(tmp_path / "node.toml").reconstruction.remote
    assert remote is not None and remote.key == str(tmp_path / "k" / "node.key_secret")
    (tmp_path / "wrong.toml").write_text('node = "no port"\nkey = "a"\nnode_key = "b"\n')
    with pytest.raises(ConfigError, match="node"):
        config.load_worker(tmp_path / "wrong.toml")
