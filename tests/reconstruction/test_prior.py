"""A CT changed where X-rays contradict it, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from navnode import geometry as g
from navnode.errors import ComputeError
from navnode.reconstruction import Method, Reconstructor, reconstruct
from navnode.types import Grid, Volume
from tests.reconstruction.balls import ball, views, with_a_rod


def test_a_prior_changes_where_the_x_rays_contradict_it_and_nowhere_else():
    before = ball()
    truth, rod = with_a_rod(before)
    given = views(truth, (0, 45, 90, 135))
    made = Reconstructor(Method.PRIOR).reconstruct(given, Grid(64, 2.0), prior=before)
    assert made.method is Method.PRIOR and made.status.value == "DEGRADED" and "rests on the CT alone" in made.reason
    off = [np.sqrt(np.mean((hu - truth.voxels)[rod] ** 2)) for hu in (before.voxels, made.volume.voxels)]
    assert off[1] < 0.6 * off[0]
    far = np.abs(np.indices(rod.shape) - np.argwhere(rod).mean(axis=0)[:, None, None, None]).max(axis=0) > 14
    assert np.abs(made.volume.voxels - before.voxels)[far].mean() < 1.0
    assert made.rests is not None and made.rests.voxels[rod].mean() < 0.3
    without = reconstruct(given, method=Method.SART, size=64, spacing_mm=2.0)
    gain_db = 20 * np.log10(np.std(without.voxels - truth.voxels) / np.std(made.volume.voxels - truth.voxels))
    assert gain_db > 4


def test_a_prior_without_contradiction_stays_as_it_is():
    before = ball()
    made = Reconstructor(Method.PRIOR).reconstruct(views(before, (0, 45, 90)), Grid(64, 2.0), prior=before)
    assert np.abs(made.volume.voxels - before.voxels).max() < 20


def test_a_prior_that_ends_inside_the_body_is_refused():
    whole = ball()
    moved = whole.volume_from_index.copy()
    moved[2, 3] += 2.0 * 26
    short = Volume(whole.voxels[26:34], moved)
    with pytest.raises(ComputeError, match="too short"):
        Reconstructor(Method.PRIOR).reconstruct(views(whole, (0, 45, 90)), Grid(64, 2.0), prior=short)


def test_a_misplaced_prior_is_refused():
    rng, body = np.random.default_rng(0), ball()
    grains = gaussian_filter(rng.normal(0, 4000, (64,) * 3), 1.5) * (body.voxels > 0)
    grainy = Volume((body.voxels + grains).astype(np.float32), body.volume_from_index)
    moved = Volume(grainy.voxels, g.rigid(None, (16.0, 12.0, -16.0)) @ body.volume_from_index)
    given = views(grainy, (0, 45, 90))
    with pytest.raises(ComputeError, match="do not look like this CT"):
        Reconstructor(Method.PRIOR).reconstruct(given, Grid(64, 2.0), prior=moved)
    assert Reconstructor(Method.PRIOR).reconstruct(given, Grid(64, 2.0), prior=grainy).rests is not None
