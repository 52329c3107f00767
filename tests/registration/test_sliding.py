"""A marker that slides, and a C-arm that turns and is calibrated no better than it says."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.registration.sliding import Sliding

CENTER_MM = np.array([0.0, 0.0, 0.0])
COVARIANCE = np.diag([1e-6] * 3 + [0.02] * 3)


def told_mm(source_sigma_mm, *, off_mm=(0.0, 0.0, 0.0), slid_mm=0.0, slide_s=2.0, deg_per_s=20.0, seconds=8.0, seed=0):
    """How far the marker is said to slide, at most, by ten X-rays a second; hints do not count.

    Args:
        off_mm: error of hand-eye, in the C-arm's frame.
        slid_mm: how far the marker slides from the third second on, along the axis about which the C-arm turns.
    """
    rng, sliding, most_mm = np.random.default_rng(seed), Sliding(source_sigma_mm), 0.0
    for n in range(round(10 * seconds)):
        at_s = n / 10
        pose = g.pose_at(CENTER_MM, 700.0, orbital_deg=min(deg_per_s * at_s, 90.0), angulation_deg=0.0)
        moved = pose[:3, :3] @ np.array(off_mm) + rng.normal(0, 0.05, 3)
        moved[2] += slid_mm * np.clip((at_s - 3.0) / slide_s, 0.0, 1.0)
        turned = g.rigid(g.rotation_exp(rng.normal(0, 2e-4, 3)), moved)
        slid = sliding.add(round(at_s * 1e9), turned, pose, COVARIANCE, CENTER_MM)
        if slid is not None and not slid.hint:
            most_mm = max(most_mm, slid.mm)
    return most_mm


@pytest.mark.parametrize("seed", range(5))
def test_what_stands_still_is_not_said_to_slide(seed):
    assert told_mm(0.0, seed=seed) == 0.0
    assert told_mm(0.0, off_mm=(0.6, 0.3, 0.0), seed=seed) == 0.0


@pytest.mark.parametrize("off_mm", [(1.8, 0.0, 0.0), (-1.8, 0.0, 0.5), (1.2, 1.2, 1.2)])
def test_a_calibration_that_is_off_by_what_it_states_is_no_slide(off_mm):
    assert told_mm(0.0, off_mm=off_mm) > 0.5, "of a calibration that states nothing it is one"
    assert told_mm(1.2, off_mm=off_mm) == 0.0


@pytest.mark.parametrize("slide_s", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("deg_per_s", [0.0, 20.0])
def test_a_slide_is_found_whatever_the_calibration_states(slide_s, deg_per_s):
    for source_sigma_mm in (0.0, 1.2):
        assert told_mm(source_sigma_mm, slid_mm=5.0, slide_s=slide_s, deg_per_s=deg_per_s) > 0.5


def settles(moved_mm, *, until_s=9.0, mm_per_s=0.0, deg_per_s=0.0):
    """Whether the marker is said to rest at the end, by ten X-rays a second, with a slide in the third second.

    Args:
        moved_mm: (3,), where it is from then on.
        mm_per_s: speed of the anatomy through the C-arm's frame, along the volume's z.
        deg_per_s: of the C-arm, which turns about an axis 60 mm beside the anatomy.
    """
    rng, sliding = np.random.default_rng(0), Sliding()
    aside_mm = np.array([60.0, 0.0, 0.0])
    for n in range(round(10 * until_s)):
        at_s = n / 10
        pose = g.pose_at(aside_mm, 700.0, orbital_deg=deg_per_s * at_s)
        pose[2, 3] -= mm_per_s * at_s
        moved = rng.normal(0, 0.05, 3) + np.array(moved_mm) * np.clip((at_s - 3.0) / 0.3, 0.0, 1.0)
        sliding.add(round(at_s * 1e9), g.rigid(None, moved), pose, COVARIANCE, CENTER_MM)
    return sliding.settled


def test_a_marker_that_slid_rests_whatever_else_moves():
    assert settles((0.0, 0.0, 3.0))
    assert settles((3.0, 0.0, 0.0), mm_per_s=15.0), "across the motion"
    assert settles((0.0, 0.0, 3.0), deg_per_s=10.0), "across the turn"


def test_what_late_pictures_would_show_is_no_rest():
    assert not settles((0.0, 0.0, 3.0), mm_per_s=15.0)
    assert not settles((0.0, 0.0, -1.8), mm_per_s=-15.0)
    assert settles((0.0, 0.0, 20.0), mm_per_s=15.0), "no picture is that late"
