import numpy as np

from navnode import geometry as g
from navnode.config import ReconstructionSection
from navnode.loop.topics import max_age_ns
from navnode.loop.views import Motion, Views
from navnode.types import CArm, Frame, View

CARM = CArm(8, 8, (30.0, 30.0), 1000.0, (3.5, 3.5))
FRAME = Frame(np.ones((8, 8), np.uint16), 1, 1, 1)


def view(angle_deg: float, isocentre_mm=(10.0, 20.0, 30.0)) -> View:
    turned = g.rigid(g.rotation_exp(np.array([0.0, np.deg2rad(angle_deg), 0.0])), isocentre_mm)
    return View(np.ones((8, 8), np.float32), CARM, turned @ g.rigid(None, (0.0, 0.0, -600.0)), round(angle_deg) + 1)


def test_an_answer_that_does_not_come_is_no_longer_waited_for():
    views, asked_ns = Views(ReconstructionSection(views=2, max_views=4), with_ct=True), 1_700_000_000_000_000_123
    for angle in (0, 90):
        views.add(view(angle), FRAME)
    (first,) = views.request(600.0, asked_ns)
    assert views.request(600.0, asked_ns + max_age_ns("reconstruction.done")) == []
    (again,) = views.request(600.0, asked_ns + max_age_ns("reconstruction.done") + 1)
    assert again.request != first.request and not views.answered(first.request) and views.answered(again.request)


def test_volumes_stay_where_the_first_one_was_until_all_is_forgotten():
    views = Views(ReconstructionSection(views=2, max_views=4), with_ct=True)
    for angle in (0, 90):
        views.add(view(angle), FRAME)
    (first,) = views.request(600.0, 0)
    assert np.allclose(first.center_mm, (10, 20, 30))
    assert views.answered(first.request)
    views.add(view(45, (14.0, 20.0, 30.0)), FRAME)
    (second,) = views.request(600.0, 1)
    assert second.center_mm == first.center_mm and len(second.views) == 3
    views.forget()
    for angle in (0, 90):
        views.add(view(angle, (-5.0, 0.0, 0.0)), FRAME)
    (third,) = views.request(600.0, 2)
    assert np.allclose(third.center_mm, (-5, 0, 0))


def test_a_c_arm_stands_still_by_what_it_looks_at():
    """It may swing about the isocentre by less than a degree; not move it by 2 mm."""

    def after(*steps):
        """Whether it stands still after poses 30 ms apart: degrees about the isocentre, and where that is, mm."""
        motion = Motion(600.0)
        for n, (angle_deg, at_mm) in enumerate([(0.0, 0.0), *steps]):
            turned = g.rigid(g.rotation_exp(np.array([0.0, np.deg2rad(angle_deg), 0.0])), (at_mm, 0.0, 0.0))
            motion.add(n * 30_000_000, turned @ g.rigid(None, (0.0, 0.0, -600.0)))
        return motion.still

    assert not after()
    assert after((0.0, 0.0)) and after((0.7, 0.0)), "the source moves by 7 mm, the isocentre does not"
    assert not after((0.9, 0.0))
    assert after((0.0, 1.9)) and not after((0.0, 2.1))


def test_the_time_that_a_request_took_is_told_in_milliseconds():
    views = Views(ReconstructionSection(views=2, max_views=4), with_ct=True)
    for angle in (0, 90):
        views.add(view(angle), FRAME)
    assert len(views.request(600.0, 5_000_000_000)) == 1
    assert views.took_ms(5_250_000_000) == 250.0
