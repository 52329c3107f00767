"""SART and total variation with few views, noise and gaps; volumes made to agree with X-rays."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.projector import Projector
from navnode.projector.native import attenuation, hounsfield
from navnode.reconstruction import Method, reconstruct
from navnode.reconstruction.fit import Fit
from navnode.types import View, Volume
from tests.reconstruction.balls import CARM, ball, views, with_a_rod


def test_four_views_locate_a_ball():
    truth = ball()
    made = reconstruct(views(truth, (0, 45, 90, 135)), method=Method.SART, size=64, spacing_mm=2.0)
    inside = truth.voxels > -300
    assert made.voxels[inside].mean() == pytest.approx(truth.voxels[inside].mean(), abs=150)
    bright = np.argwhere(made.voxels > -300).mean(axis=0)
    assert np.allclose(bright, np.argwhere(inside).mean(axis=0), atol=1.0)


def test_reducing_total_variation_reduces_noise():
    truth = ball()
    rng = np.random.default_rng(0)
    given = [
        View(
            view.line_integrals + rng.normal(0, 0.1, view.line_integrals.shape).astype(np.float32),
            CARM,
            view.volume_from_carm,
        )
        for view in views(truth, np.linspace(0, 180, 8, endpoint=False))
    ]
    inside = truth.voxels > 300
    plain, smooth = (
        reconstruct(given, method=method, size=64, spacing_mm=2.0).voxels[inside].std()
        for method in (Method.SART, Method.TV)
    )
    assert smooth < 0.9 * plain


def test_more_views_are_better():
    truth = ball()
    errors = []
    for count in (2, 4, 8):
        given = views(truth, np.linspace(0, 180, count, endpoint=False))
        made = reconstruct(given, method=Method.SART, size=64, spacing_mm=2.0)
        errors.append(np.sqrt(np.mean((made.voxels - truth.voxels) ** 2)))
    assert errors[0] > errors[1] > errors[2]


def test_unmeasured_pixels_do_not_count_as_air():
    truth = ball()
    given = views(truth, (0, 60, 120))
    with_gaps = []
    for view in given:
        line = view.line_integrals.copy()
        line[:, :8] = np.nan
        with_gaps.append(View(line, view.carm, view.volume_from_carm))
    made = reconstruct(with_gaps, method=Method.SART, size=64, spacing_mm=2.0)
    assert np.isfinite(made.voxels).all()
    assert made.voxels[truth.voxels > 0].mean() > 0


def test_a_volume_made_to_agree_matches_its_views_better():
    truth, _ = with_a_rod(ball())
    given = views(truth, (0, 45, 90, 135))
    fit = Fit(ball(), given, threads=2)
    fit.mu[:] = attenuation(ball().voxels)
    fit.agree(sweeps=3)

    def off(volume: Volume) -> float:
        projector = Projector(volume)
        lines = [projector.render(view.carm, view.volume_from_carm) - view.line_integrals for view in given]
        return float(np.sqrt(np.mean(np.square(lines))))

    after = Volume(hounsfield(fit.mu), truth.volume_from_index)
    assert off(after) < 0.7 * off(ball())
    assert after.voxels.shape == truth.voxels.shape and (after.voxels >= -1000).all()
