"""One room, one node and one console for all drills of this folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.drills.sockets import phantom, room, xrays
from tests.drills.sockets.console import PLACED, Console, Verdict, judge, steps_back_ns
from tests.drills.sockets.rigid import Matrix
from tests.drills.sockets.room import FRAME_NS, TOOLS, Faults, Room
from tests.drills.sockets.started import Started
from tests.drills.sockets.truth import LOOP_S
from tests.drills.sockets.xrays import Detector
from tests.patience import OutOfPatienceError, until

DETECTOR = Detector()
HAS_RTK = any(found.metadata["Name"] == "itk-rtk" for found in importlib.metadata.distributions())


def bank(hu: phantom.Voxels, ras_from_index: Matrix, detector: Detector) -> list[xrays.Lines]:
    """Line integrals of one loop."""
    render = xrays.renderer(hu, ras_from_index, detector)
    return [render(pose) for pose in loop()]


def loop() -> list[Matrix]:
    """Poses of the C-arm at the times of one loop's frames."""
    return [room.volume_from_carm(float(t_s)) for t_s in np.arange(0, LOOP_S, FRAME_NS / 1e9)]


@pytest.fixture(scope="session")
def hu() -> phantom.Voxels:
    """The phantom."""
    return phantom.torso()


@pytest.fixture(scope="session")
def lines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, hu: phantom.Voxels
) -> list[xrays.Lines]:
    """Of the phantom; kept between sessions, as RTK takes longer to load than to render."""
    if not HAS_RTK:
        pytest.skip("itk-rtk is not installed")
    digest = hashlib.sha256(np.round(hu).astype(np.int16).tobytes() + np.round(loop(), 6).tobytes())
    digest.update(repr(DETECTOR).encode() + Path(xrays.__file__).read_bytes())
    cache = getattr(request.config, "cache", None)  # absent if pytest is told to keep none
    folder = tmp_path_factory.mktemp("rooms") if cache is None else cache.mkdir("rooms")
    kept = folder / f"{digest.hexdigest()[:16]}.npy"
    if not kept.exists():
        for old in kept.parent.glob("*.npy"):
            old.unlink()
        np.save(kept, np.asarray(bank(hu, phantom.volume_from_index(), DETECTOR), np.float16))
    return list(np.load(kept).astype(np.float32))


class Theatre:
    """Room, node and console, and the time of a drill."""

    def __init__(self, room: Room, node: Started) -> None:
        self.room, self.node = room, node
        self.set_back = False
        """Whether a drill sets a clock back: stamps follow it then."""
        self.judged_from = 0
        """From here on the fixture judges, when a drill is over."""
        self.console = Console(node.port, room.now_ns)

    def mark(self) -> int:
        return len(self.console.heard)

    def forget(self) -> None:
        """Drop what was heard, which a long drill has judged; marks begin again."""
        assert self.set_back or not steps_back_ns(self.console.heard)
        self.console.heard.clear()
        self.judged_from = 0

    def run(self, seconds: float) -> None:
        time.sleep(seconds)

    def until(self, condition: Callable[[], object], timeout_s: float = 60.0) -> float:
        """Wait for a condition; returns how long it took, s."""
        began = time.monotonic()
        until(condition, timeout_s, self.said)
        return time.monotonic() - began

    def said(self) -> dict[str, str]:
        """What each output says of itself now."""
        last = {device: self.console.last(device) for device in (*PLACED, "XRay")}
        return {name: f"{h.metadata.get('Validity')} {h.metadata.get('Reason', '')}" for name, h in last.items() if h}

    def outputs(self, mark: int, *devices: str) -> list:
        wanted = devices or PLACED
        return [heard for heard in self.console.heard[mark:] if heard.kind == "TRANSFORM" and heard.device in wanted]

    def verdict(self, mark: int, *devices: str) -> Verdict:
        return judge(self.room, self.outputs(mark, *devices), set_back=self.set_back)

    def never_wrong(self, mark: int) -> Verdict:
        """The hard rule: of everything that was shown since a mark, nothing was VALID and wrong."""
        verdict = self.verdict(mark)
        assert verdict.outputs, "nothing was heard"
        assert not verdict.wrong, str(verdict)
        return self.verdict(mark, "DrillToVolume")

    def calm(self, timeout_s: float = 60.0) -> float:
        """Until everything is VALID, and stays so for half a second: a drill leaves the room as it was."""
        clear = Faults()
        clear.clock_ns = self.room.faults.clock_ns  # clocks stay as they were set
        self.room.faults = clear
        began = time.monotonic()
        while True:
            self.until(self._all_valid, timeout_s)
            mark = self.mark()
            time.sleep(0.5)
            heard = self.outputs(mark, "DrillToVolume", "ProbeToVolume")
            if len(heard) > 20 and all(h.metadata.get("Validity") == "VALID" for h in heard):
                return time.monotonic() - began
            if time.monotonic() - began > timeout_s:
                raise OutOfPatienceError(f"not VALID for long: {self.said()}")

    def _all_valid(self) -> bool:
        return all(self.console.validity(f"{name}ToVolume") == "VALID" for name in TOOLS)

    def close(self) -> None:
        self.console.close()
        self.node.stop()
        self.room.close()


def opened(
    folder: Path,
    lines: list[xrays.Lines],
    hu: phantom.Voxels,
    ras_from_index: Matrix,
    settings: str = "",
    i0: float = xrays.I0,
    clock_ns: dict[str, int] | None = None,
    page_port: int | None = None,
) -> Theatre:
    """A started node, with more settings (TOML) and a page if asked for, and clocks that are apart from the start."""
    ct = phantom.write_nifti(folder / "ct.nii.gz", hu, ras_from_index)
    served = Room(lines, DETECTOR, i0=i0)
    served.faults.clock_ns = clock_ns or {}
    node = Started(folder, ct, DETECTOR, served.port, settings, i0, page_port)
    try:
        node.wait()
    except BaseException:
        node.stop()
        served.close()
        raise
    return Theatre(served, node)


@pytest.fixture(scope="package")
def opened_once(lines, hu, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    folder = tmp_path_factory.mktemp("sockets")
    theatre = opened(folder, lines, hu, phantom.volume_from_index())
    try:
        theatre.calm(120.0)
        yield theatre
    finally:
        theatre.close()


@pytest.fixture
def theatre(opened_once: Theatre) -> Iterator[Theatre]:
    """All VALID at the beginning of a drill; afterwards no stamp has gone back, and all becomes VALID again."""
    opened_once.judged_from, opened_once.set_back = opened_once.mark(), False
    yield opened_once
    mark = opened_once.judged_from
    before = opened_once.mark()
    opened_once.calm()
    verdict = opened_once.verdict(max(before, opened_once.judged_from))
    assert not verdict.wrong, f"until all is VALID again: {verdict}"
    assert opened_once.set_back or not steps_back_ns(opened_once.console.heard[mark:])
