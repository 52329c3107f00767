"""Models of limbs against their CTs: the parts of the benchmark, and one case from the room to the figures."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from navnode import geometry as g
from navnode.bench.models import filled
from navnode.jig import jig_for, locate
from navnode.projector import Projector
from navnode.projector.grids import centered_grid
from navnode.simulation.beads import Beads
from navnode.simulation.plain_room import drawn_limb, exposures, placed_in
from navnode.types import Mesh, Volume
from tests.invoke import call


@pytest.mark.parametrize("turned", [0.0, 0.4])
def test_a_ball_fills_the_voxels_within_it(turned):
    grid = Volume(np.zeros((40, 44, 48), np.float32), centered_grid((48, 44, 40), 1.5, np.array([3.0, -2.0, 5.0])))
    ball = trimesh.creation.icosphere(4, 20.0)
    points = ball.vertices @ g.rotation_exp(np.array([turned, -turned, 0.1])).T + (3.0, -2.0, 5.0)
    inside = filled(Mesh(points.astype(np.float32), ball.faces.astype(np.uint32)), grid)
    at = g.transform(grid.volume_from_index, np.argwhere(np.ones(inside.shape))[:, ::-1].astype(float))
    away_mm = np.linalg.norm(at - (3.0, -2.0, 5.0), axis=1).reshape(inside.shape)
    assert inside[away_mm < 19.8].all() and not inside[away_mm > 20.01].any()


@pytest.mark.long
def test_the_room_shows_the_jig_as_it_is_and_the_limb_in_its_middle():
    rng = np.random.default_rng(2)
    limb, jig = placed_in(drawn_limb(), rng), jig_for()
    assert np.linalg.norm(limb.center_mm) < 25 and g.is_rigid(limb.volume_from_index / (1.5, 1.5, 1.5, 1.0))
    beads = Beads(jig.positions_mm, np.full(len(jig.ids), jig.diameter_mm))
    shots = exposures(Projector(limb).render, beads, rng, (0.0, 90.0))
    for shot, front in zip(shots, ((0, 1, 0), (1, 0, 0)), strict=True):
        assert g.is_rigid(shot.jig_from_carm) and shot.jig_from_carm[:3, 2] @ np.array(front) > 0.97
        counts = np.random.default_rng(0).poisson(20_000 * np.exp(-shot.line_integrals)).astype(np.uint16)
        found = locate(counts, jig, shot.carm.pixel_spacing_mm)
        assert found.beads >= 40
        assert found.carm.source_to_detector_mm == pytest.approx(shot.carm.source_to_detector_mm, rel=0.01)


@pytest.mark.long
def test_one_case_from_the_room_to_the_report(tmp_path):
    code, report, error = call("bench", "model", "--out", tmp_path / "demo", "--json")
    assert code == 0, error
    (case,) = report["cases"]
    for way in ("jig", "known"):
        assert case[way]["status"] == "DEGRADED" and case[way]["dice"] > 0.7 and case[way]["assd_mm"] < 4
    assert abs(report["dice_lost"]) < 0.03
    assert case["jig"]["focal_off"] < 0.01 and case["jig"]["limb_off_mm"] < 0.5
    assert (tmp_path / "demo" / "01" / "model" / "report.html").is_file()
    code, _, error = call("bench", "model", "--out", tmp_path / "demo")
    assert code == 2 and "nothing is replaced" in error


def test_nothing_is_opened_that_does_not_stay():
    code, _, error = call("bench", "model", "--open")
    assert code == 2 and "--out" in error
