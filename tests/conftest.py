"""Shared fixtures: a small volume, a recorded session, a free port, and a cache of the tests' own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from scipy.ndimage import gaussian_filter

from navnode import geometry as g
from navnode.types import Volume

pytest_plugins = ("tests.objects",)

SHARED = Path(__file__).resolve().parents[2] / "shared"
SLOW = pytest.mark.slow
_ENOUGH = 20
"""VALID X-rays that a recorded session must hold, of 60 in six seconds."""
GOLDEN = Path(__file__).parent / "recording" / "golden" / "room.mcap"

HAS_CPP = Path("/usr/include/openigtlink/igtlClientSocket.h").exists() and shutil.which("g++") is not None
needs_cpp = pytest.mark.skipif(not HAS_CPP, reason="libopenigtlink-dev and g++ are not installed")


def peer_program(name: str) -> Path:
    """A program of tests/peers, built against the OpenIGTLink C++ library."""
    root = Path(__file__).parent.parent
    subprocess.run(["make", "--silent", f"tests/peers/build/{name}"], cwd=root, check=True)
    return root / "tests/peers/build" / name


settings.register_profile(
    "navnode", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("navnode")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reports of tests name the risks whose controls they verify (navnode/evidence/risks.toml)."""
    for item in items:
        item.user_properties += [("risk", name) for mark in item.iter_markers("risk") for name in mark.args]


def slow(*values: object) -> object:
    """Values of a parametrised test that `make test-slow` alone runs: more of what others show."""
    return pytest.param(*values, marks=SLOW)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing a test makes ends up in the user's cache, and nothing there changes a test."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def procedural_ct(own_cache: Path) -> Path:
    """The procedural torso on disk."""
    from navnode.simulation.sample_ct import ensure_procedural_ct

    return ensure_procedural_ct()


@pytest.fixture(scope="session")
def recorded(tmp_path_factory, own_cache):
    """A session of a node beside the virtual operating room, from its start."""
    room = ("--ct", "procedural", "--size", "256", "--rate", "10")
    for seconds in (6, 24, 60):  # a busy machine takes longer until X-rays are registered
        path = tmp_path_factory.mktemp("sessions") / "room.mcap"
        ports = ("--port", str(find_free_port()), "--simulator-port", str(find_free_port()))
        demo = [sys.executable, "-m", "navnode", "demo", "--headless", *room, *ports]
        command = [*demo, "--seconds", str(seconds), "--record", str(path), "--json"]
        done = subprocess.run(command, check=True, capture_output=True, timeout=240)
        if json.loads(done.stdout)["status_counts"]["VALID"] >= _ENOUGH:
            return path
    pytest.fail(f"of a minute of X-rays fewer than {_ENOUGH} were VALID: {done.stdout.decode()}")


@pytest.fixture(scope="session")
def blob() -> Volume:
    """A smooth, textured, obliquely placed body with anisotropic voxels, air around it."""
    rng = np.random.default_rng(0)
    shape = (36, 48, 56)
    hu = gaussian_filter(rng.normal(size=shape), 2.0) * 6000
    k, j, i = np.mgrid[[slice(-1, 1, 1j * n) for n in shape]]
    hu[i**2 + j**2 + k**2 > 0.75] = -1000
    hu = gaussian_filter(hu, 1.0).astype(np.float32)
    volume_from_index = np.diag([2.0, 1.2, 1.5, 1.0])
    volume_from_index[:3, :3] = g.rotation_exp(np.array([0.3, -0.2, 0.5])) @ volume_from_index[:3, :3]
    middle = (np.array(shape[::-1]) - 1) / 2
    volume_from_index[:3, 3] = np.array([20.0, -30.0, 10.0]) - volume_from_index[:3, :3] @ middle
    return Volume(hu, volume_from_index, "blob")


@pytest.fixture
def free_port() -> int:
    return find_free_port()


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
