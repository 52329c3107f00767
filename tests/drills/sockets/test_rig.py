"""The rig itself: drills that cannot fail would prove nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import SHARED
from tests.drills.sockets import phantom, room, wire, xrays
from tests.drills.sockets.conftest import DETECTOR, HAS_RTK, Theatre, bank, opened
from tests.drills.sockets.console import judge, steps_back_ns
from tests.drills.sockets.rigid import rigid, rotation
from tests.drills.sockets.room import DRILL, Sent
from tests.drills.sockets.wire import Heard

OK = {"Validity": "VALID", "TransformStatus": "OK"}
TRUE = rigid(rotation(0.2, 0.1, -0.4), (10.0, -40.0, 20.0))


class Told:
    """A room that knows one pose."""

    def true_at(self, device: str, stamp_ns: int, arrived_ns: int) -> Sent | None:
        return Sent(stamp_ns, arrived_ns - 20_000_000, TRUE) if stamp_ns == 1_000 else None

    def shortly_before(self, device: str, stamp_ns: int, arrived_ns: int) -> list[Sent]:
        return []


def heard(matrix: np.ndarray, stamp_ns: int = 1_000, **metadata: str) -> Heard:
    return Heard("TRANSFORM", "DrillToVolume", stamp_ns, 2_000, {**OK, **metadata}, matrix, "")


def test_the_judge_finds_what_is_wrong():
    right = judge(Told(), [heard(TRUE @ rigid(None, (1.5, 0.0, 0.0)))])
    assert right.valid == 1 and not right.wrong and right.worst_mm == pytest.approx(1.5)
    for wrong in (rigid(None, (2.1, 0, 0)), rigid(rotation(0, np.radians(2.1), 0))):
        assert judge(Told(), [heard(TRUE @ wrong)]).wrong
        assert not judge(Told(), [heard(TRUE @ wrong, Validity="DEGRADED")]).wrong
    assert judge(Told(), [heard(TRUE, stamp_ns=5)]).wrong, "never measured"
    back = [heard(TRUE, stamp_ns=9_000_000), heard(TRUE, stamp_ns=2_000_000)]
    assert steps_back_ns(back) == {"DrillToVolume": 7_000_000}


def test_what_is_packed_is_read_again_in_any_pieces():
    matrix = rigid(rotation(0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    stamp_ns = 1_700_000_000_123_456_789
    sent = wire.stamped(wire.transform("DrillToTracker", matrix, TransformStatus="OK"), stamp_ns)
    splitter, got = wire.Splitter(), []
    for at in range(0, len(sent), 7):
        got += splitter.feed(sent[at : at + 7], 5)
    (message,) = got
    assert (message.kind, message.device, message.metadata) == ("TRANSFORM", DRILL, {"TransformStatus": "OK"})
    assert abs(message.stamp_ns - stamp_ns) <= 1 and np.allclose(message.matrix, matrix, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RTK, reason="itk-rtk is not installed")
@pytest.mark.parametrize("t_s", [0.0, 2.3, 5.0])
def test_xrays_are_those_of_rays_cast_otherwise(hu, t_s):
    at, rng = room.volume_from_carm(t_s), np.random.default_rng(0)
    px = rng.integers(5, DETECTOR.size_px - 5, (80, 2)).astype(float)
    cast = xrays.cast(hu, phantom.volume_from_index(), DETECTOR, at, px)
    rendered = xrays.renderer(hu, phantom.volume_from_index(), DETECTOR)(at)
    assert np.abs(rendered[px[:, 1].astype(int), px[:, 0].astype(int)] - cast).max() < 0.02


@pytest.mark.slow
def test_a_credulous_node_fails(lines, hu, own_cache, tmp_path):
    """With its checks switched off the same drills find it VALID and wrong."""
    settings = "[trust]\nfrozen_after = 0\nmotion_mm = 100\n"
    theatre = opened(tmp_path, lines, hu, phantom.volume_from_index(), settings)
    try:
        theatre.calm(120.0)
        mark = theatre.mark()
        with theatre.room.playing(frozen={DRILL}):
            theatre.run(2.0)
        assert len(theatre.verdict(mark, "DrillToVolume").wrong) > 20
    finally:
        theatre.close()


@pytest.fixture(scope="module")
def abdomen(own_cache, tmp_path_factory):
    """A room around the spine of a real CT."""
    path = SHARED / "ct" / "abdomen_totalseg_example.nii.gz"
    if not path.exists() or not HAS_RTK:
        pytest.skip("there is no CT beside the checkout, or no itk-rtk")
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.as_closest_canonical(nibabel.load(path))
    hu = np.ascontiguousarray(np.asarray(image.dataobj, np.float32).transpose(2, 1, 0))
    ras_from_index = np.array(image.affine, float)
    spine_mm = _spine_mm(hu, ras_from_index)
    ras_from_index = rigid(None, phantom.SPINE_MM - spine_mm) @ ras_from_index
    folder, lines = tmp_path_factory.mktemp("abdomen"), bank(hu, ras_from_index, DETECTOR)
    theatre = opened(folder, lines, hu, ras_from_index, i0=60_000.0)  # wider than the phantom: more dose
    try:
        theatre.calm(120.0)
        yield theatre
    finally:
        theatre.close()


def _spine_mm(hu: np.ndarray, ras_from_index: np.ndarray) -> np.ndarray:
    """Where most bone lies above each other."""
    _, j, i = np.nonzero(hu > 250)
    columns, counts = np.unique(np.column_stack([i // 6, j // 6]), axis=0, return_counts=True)
    near = (columns[np.argmax(counts)] + 0.5) * 6
    inside = (np.abs(i - near[0]) < 8) & (np.abs(j - near[1]) < 8)
    index = np.array([i[inside].mean(), j[inside].mean(), (hu.shape[0] - 1) / 2, 1.0])
    return np.asarray((ras_from_index @ index)[:3])


@pytest.mark.slow
def test_a_real_ct_without_a_fault(abdomen: Theatre):
    mark = abdomen.mark()
    abdomen.run(10.0)
    print(abdomen.verdict(mark))
    assert abdomen.never_wrong(mark).share >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("mm", [6.0, 14.0, 30.0])
@pytest.mark.parametrize("xrays", [False, True])
def test_a_real_ct_and_a_bumped_marker(abdomen: Theatre, mm, xrays):
    mark = abdomen.mark()
    abdomen.room.faults.xrays = xrays
    abdomen.run(0.3)
    abdomen.room.hide({room.PATIENT}, 25, lambda: abdomen.room.bump(mm))
    abdomen.run(2.0)
    during = abdomen.never_wrong(mark)
    assert during.outputs > 100 and during.share < 1, str(during)  # it was doubted
    print(f"VALID again after {abdomen.calm():.1f} s")
    assert abdomen.never_wrong(mark).outputs > during.outputs
