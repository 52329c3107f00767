"""`navnode model --jig`: pictures whose geometry nobody states, with a jig of beads beside the limb."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from navnode import geometry as g
from navnode.jig import jig_for, write_jig
from navnode.projector import Projector
from navnode.simulation.beads import Beads, exposed, rendered
from navnode.types import CArm
from tests.invoke import call
from tests.test_model import LONG_MM, limb

CARM = CArm(1024, 1024, (0.4, 0.4), 1150.0, (519.0, 498.0))
JIG = jig_for()


def camera(degrees: float) -> np.ndarray:
    """jig_from_carm of a source that looks across the limb."""
    angle = np.deg2rad(degrees)
    ray, down = np.array([np.sin(angle), np.cos(angle), 0.03]), np.array([0.0, 0.0, -1.0])
    ray /= np.linalg.norm(ray)
    across = np.cross(down, ray) / np.linalg.norm(np.cross(down, ray))
    return g.rigid(np.stack([across, np.cross(ray, across), ray], axis=1), np.array([15.0, 15.0, 0.0]) - 920.0 * ray)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jig")
    write_jig(folder / "jig.json", JIG)
    write_jig(folder / "other.json", jig_for(seed=5))
    bone, beads = Projector(limb()), Beads(JIG.positions_mm, np.full(len(JIG.ids), JIG.diameter_mm))
    for name, degrees in (("ap", 3.0), ("lateral", 88.0)):
        line = bone.render(CARM, camera(degrees)) + rendered(beads, CARM, camera(degrees))
        cv2.imwrite(str(folder / f"{name}.png"), exposed(line, np.random.default_rng(round(degrees))))
    return folder


def test_two_ordinary_pictures_and_a_jig_make_a_model(folder):
    ap, lateral, jig, out = (folder / name for name in ("ap.png", "lateral.png", "jig.json", "model"))
    code, report, error = call("model", ap, lateral, "--jig", jig, "--pixel-mm", 0.4, "--out", out, "--json")
    assert code == 0, error
    assert report["geometry"] == f"the beads of {JIG.name}" and report["scale_open"] == 0 and not report["side_open"]
    for picture, degrees in zip(report["pictures"], (3.0, 88.0), strict=True):
        found, true = np.array(picture["volume_from_carm"]), camera(degrees)
        across = g.transform(g.inverse(found), np.zeros(3)) - g.transform(g.inverse(true), np.zeros(3))
        assert np.hypot(*across[:2]) < 2 and g.angle_between_rad(found[:3, 2], true[:3, 2]) < np.deg2rad(0.3)
    assert report["status"] == "DEGRADED" and abs(report["bones"][0]["length_mm"] - LONG_MM) < 10


def test_another_jig_is_named_and_nothing_is_made(folder):
    out = folder / "other"
    code, _, error = call(
        "model", folder / "ap.png", folder / "lateral.png", "--jig", folder / "other.json", "--out", out
    )
    assert code == 2 and "ap.png" in error and not out.exists()


def test_a_jig_and_stated_angles_do_not_go_together(folder):
    pictures, jig = (folder / "ap.png", folder / "lateral.png"), folder / "jig.json"
    code, _, error = call("model", *pictures, "--jig", jig, "--angles", "0 90", "--out", folder / "both")
    assert code == 2 and "--jig" in error
