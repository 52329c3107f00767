"""The learned volume: views in any order, its uncertainty, and bad views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ComputeError
from navnode.projector.grids import onto
from navnode.reconstruction import Method, Reconstructor, engines, learned, models
from navnode.reconstruction.bones import BoneFound
from navnode.reconstruction.learned import Accumulator
from navnode.types import Grid, Status, View, Volume
from tests.reconstruction.balls import CARM, ball, views, with_a_rod

pytestmark = pytest.mark.long


def test_views_come_in_any_order_and_can_be_removed(model):
    networks = engines.load(model, threads=2)
    given = views(ball(), (0, 60, 100))
    one, other = (Accumulator(networks, np.zeros(3), 2.0) for _ in range(2))
    for view in given:
        one.add(view)
    moved = View(given[1].line_integrals, CARM, given[1].volume_from_carm @ g.rigid(None, (3.0, 0.0, 0.0)))
    for view in (given[2], moved, given[0], given[1], given[2]):
        other.add(view)
    assert other.views == 4
    other.keep(given)
    assert other.views == one.views == 3
    assert np.abs(one.result().volume.voxels - other.result().volume.voxels).max() < 1.0
    one.keep(given[1:])
    assert np.abs(one.result().volume.voxels - other.result().volume.voxels).max() > 1.0


@pytest.mark.skipif(not models.SHIPPED.exists(), reason="no model is shipped")
def test_the_shipped_model_approximates_a_ball_and_states_its_uncertainty():
    truth = ball(radius_mm=40.0, hu=100.0)
    made = Reconstructor(Method.LEARNED, threads=2).reconstruct(views(truth, (0, 45, 90, 135)), Grid(spacing_mm=1.0))
    volume_engine = made.engine.partition(", bone in ")[0]
    assert volume_engine in {engines.title(name) for name in engines.available()} and "not measured" not in made.reason
    assert made.uncertainty_hu is not None
    seen = made.uncertainty_hu.voxels < 4000
    expected = onto(truth, made.volume.volume_from_index, (128,) * 3).voxels
    assert seen.mean() > 0.5
    assert np.corrcoef(made.volume.voxels[seen], expected[seen])[0, 1] > 0.9
    within = np.abs(made.volume.voxels - expected)[seen] <= made.uncertainty_hu.voxels[seen]
    assert within.mean() > 0.8


@pytest.mark.skipif(not models.SHIPPED.exists(), reason="no model is shipped")
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda: views(ball(), (30,)), "1 view is not enough"),
        (lambda: views(ball(), (10, 10)), "same way"),
        (
            lambda: [
                replace(view, volume_from_carm=g.rigid(None, (900.0, 0, 0)) @ view.volume_from_carm)
                for view in views(ball(), (0, 60))
            ],
            "do not overlap",
        ),
        (
            lambda: [
                replace(view, line_integrals=np.full_like(view.line_integrals, np.nan))
                for view in views(ball(), (0, 60))
            ],
            "saturated everywhere",
        ),
    ],
)
def test_unusable_views_are_refused_with_the_reason(given, reason):
    with pytest.raises(ComputeError, match=reason):
        Reconstructor(Method.LEARNED, threads=2).reconstruct(given())


@pytest.mark.skipif(not models.SHIPPED.exists(), reason="no model is shipped")
def test_metal_truncation_and_a_wrong_pose_yield_plausible_hu_but_no_valid_volume():
    with_metal, _ = with_a_rod(ball(radius_mm=50.0, hu=50.0))
    learned = Reconstructor(Method.LEARNED, threads=2)
    given = views(with_metal, (0, 50, 100))
    cut = []
    for view in given:
        line = view.line_integrals.copy()
        line[:12], line[:, 50:] = np.nan, np.nan
        cut.append(replace(view, line_integrals=line))
    off = [given[0], replace(given[1], volume_from_carm=g.rigid(None, (0, 25.0, 10.0)) @ given[1].volume_from_carm)]
    for each in (given, cut, off):
        made = learned.reconstruct(each, Grid(spacing_mm=1.5))
        assert made.status is not Status.VALID and made.reason
        assert made.uncertainty_hu is not None and made.bone is not None
        assert np.isfinite(made.volume.voxels).all() and (made.uncertainty_hu.voxels > 0).all()
        assert made.volume.voxels.min() >= -1000 and made.volume.voxels.max() <= 4000
        assert made.bone.likely.voxels.min() >= 0 and made.bone.likely.voxels.max() <= 1


def bone_of(likely: float, shown: float, unexplained: float) -> BoneFound:
    cube = np.full((4, 4, 4), likely, np.float32)
    volume = Volume(cube, np.eye(4))
    return BoneFound(volume, 0.5, 2, 0.1, None, unexplained, np.zeros(cube.shape, np.uint8), np.full_like(cube, shown))


def half_95(likely: float, shown: float, unexplained: float, views: int = 2, own: float = 200.0) -> float:
    """Half of the interval, HU, where the network by itself states ``own``."""
    made = learned._widened(np.full((4, 4, 4), own, np.float32), bone_of(likely, shown, unexplained), views)
    assert made.dtype == np.float32 and np.ptp(made) == 0
    return float(made[0, 0, 0])


def test_intervals_are_as_wide_as_what_is_not_explained_and_not_known_asks_for() -> None:
    assert half_95(0, 0, 0.001) == pytest.approx(140, abs=1)
    assert half_95(0, 0, 0.0) == 200  # no bone was read, so nothing is known of the body
    assert half_95(0, 0, 0.6) == half_95(0, 0, 2.0) == pytest.approx(200)  # never narrower than that for a trunk
    explained, not_at_all = half_95(0, 1, 0.001), half_95(0, 1, 1.0)
    assert explained == pytest.approx(200, abs=1) and not_at_all > 600  # bone that all views show was not found
    assert half_95(0, 1, 1.0, views=2) > half_95(0, 1, 1.0, views=3) > half_95(0, 1, 1.0, views=4)
    assert half_95(0, 1, 1.0, views=4) == half_95(0, 1, 1.0, views=16)
    assert half_95(0.5, 1, 0.2) > 500 and half_95(1, 1, 0.2) > 700
    unsure = [half_95(likely, likely, 0.3) for likely in (0.0, 0.2, 0.4)]
    assert unsure == sorted(unsure)
