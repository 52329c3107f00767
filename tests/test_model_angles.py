"""Axes, angles and landmarks of bones: of solids whose angles are known, and of people's bones where they are there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from skimage.measure import marching_cubes

from navnode.errors import ConfigError
from navnode.offline import landmarks as marks
from navnode.offline.angles import Certainty, angles, axes, side
from navnode.offline.longbones import LongBone, proposed
from navnode.types import Mesh

BONES = Path(__file__).parents[2] / "shared" / "bones"
STEP_MM = 2.5
HEAD_MM, NECK_MM, LOW_MM, HIGH_MM = 23.0, 50.0, -180.0, 150.0


def capsule(points, start, end, radius_mm):
    """Signed distance from a rod with round ends, outside positive."""
    way = np.subtract(end, start)
    along = np.clip((points - start) @ way / (way @ way), 0, 1)
    return np.linalg.norm(points - start - along[..., None] * way, axis=-1) - radius_mm


def meshed(parts) -> Mesh:
    axes_mm = [np.arange(low, high, STEP_MM) for low, high in ((-75, 75), (-75, 75), (-230, 240))]
    points = np.stack(np.meshgrid(*axes_mm, indexing="ij"), axis=-1)
    field = -np.min([part(points) for part in parts], axis=0)
    vertices, faces, _, _ = marching_cubes(field, 0.0, spacing=(STEP_MM,) * 3)
    mesh = Mesh((vertices + [each[0] for each in axes_mm]).astype(np.float32), faces.astype(np.uint32))
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, k]].astype(float) for k in range(3))
    inside_out = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() < 0
    return Mesh(mesh.vertices_mm, mesh.triangles[:, ::-1].copy()) if inside_out else mesh


@cache
def femur(neck_deg: float, tilt_deg: float, left: bool = False, hip: bool = True) -> Mesh:
    """A right femur (x: right, lateral) whose head leans to the left, with two balls for condyles, tilted."""
    out = -1.0 if left else 1.0
    neck = np.deg2rad(neck_deg)
    head = np.array([-out * NECK_MM * np.sin(neck), 0, HIGH_MM - NECK_MM * np.cos(neck)])
    lift = 24 * np.tan(np.deg2rad(tilt_deg))
    condyles = [np.array([out * x, -14, LOW_MM + way * lift]) for x, way in ((-24, -1), (24, 1))]
    parts = [
        lambda p: capsule(p, (0, 0, LOW_MM), (0, 0, HIGH_MM), 13),
        *(lambda p, at=at: np.linalg.norm(p - at, axis=-1) - 20 for at in condyles),
    ]
    if hip:
        parts += [
            lambda p: capsule(p, (0, 0, HIGH_MM), head, 14),
            lambda p: np.linalg.norm(p - head, axis=-1) - HEAD_MM,
        ]
    return meshed(parts)


def measured(bones: dict[str, LongBone], error_mm: float | None = 1.0):
    found = proposed(bones)
    kinds = {name: bone.kind for name, bone in bones.items()}
    values = angles(found, kinds, {name: Certainty(error_mm) for name in bones})
    return found, {each.name: each for each in values}


@pytest.mark.parametrize(("neck_deg", "tilt_deg", "left"), [(127, 9, False), (135, 4, True), (118, 0, False)])
@pytest.mark.long
def test_a_solid_femur_has_the_angles_that_it_was_made_with(neck_deg, tilt_deg, left):
    found, values = measured({"femur": LongBone("femur", femur(neck_deg, tilt_deg, left), (True, True))})
    landmarks = found["femur"]
    out, neck = (-1 if left else 1), np.deg2rad(neck_deg)
    head = [-out * NECK_MM * np.sin(neck), 0, HIGH_MM - NECK_MM * np.cos(neck)]
    assert landmarks["head centre"] == pytest.approx(head, abs=0.7)
    assert values["neck-shaft"].degrees == pytest.approx(neck_deg, abs=1.5)
    assert values["aLDFA"].degrees == pytest.approx(90 - tilt_deg, abs=0.7)
    # The knee's middle is between the lowest points of both balls.
    mechanical = np.rad2deg(np.arctan2(NECK_MM * np.sin(neck), head[2] - LOW_MM + 20))
    assert values["mLDFA"].degrees == pytest.approx(90 - tilt_deg + mechanical, abs=1.0)
    assert side(landmarks) == ("left" if left else "right")
    for name, truth in (("neck-shaft", neck_deg), ("aLDFA", 90 - tilt_deg)):
        low, high = values[name].interval_deg
        assert low < truth < high and high - low < 20
    assert {axis.name for axis in axes(found, {"femur": "femur"})} == {"anatomical", "mechanical"}


def test_what_is_not_shown_is_not_measured():
    cut = LongBone("femur", femur(127, 9, hip=False), (True, False))
    found, values = measured({"femur": cut})
    assert "head centre" not in found["femur"] and "condyle 1 distal" in found["femur"]
    assert values["neck-shaft"].not_shown == values["mLDFA"].not_shown == "the femoral head is not shown"
    assert "medial and lateral cannot be told apart" in values["aLDFA"].not_shown
    assert side(found["femur"]) == ""
    _, values = measured({"femur": LongBone("femur", cut.mesh, (False, False))})
    assert {each.degrees for each in values.values()} == {None}
    assert values["aLDFA"].not_shown == "the condyles are not shown whole"


def test_without_an_expected_error_no_interval_is_stated():
    _, values = measured({"femur": LongBone("femur", femur(127, 9), (True, True))}, None)
    assert values["aLDFA"].degrees is not None and values["aLDFA"].interval_deg is None


def test_landmarks_that_are_moved_are_measured_again(tmp_path):
    found, values = measured({"femur": LongBone("femur", femur(127, 0), (True, True))})
    marks.write(found, tmp_path / "landmarks.mrk.json")
    same, placed = marks.moved(found, {"femur": "femur"}, tmp_path / "landmarks.mrk.json")
    assert placed == 0 and same["femur"].keys() == found["femur"].keys()
    document = json.loads((tmp_path / "landmarks.mrk.json").read_text())
    for point in document["markups"][0]["controlPoints"]:
        if point["label"] == "femur: lateral condyle distal":
            point["position"][2] += 48 * np.tan(np.deg2rad(5))
    (tmp_path / "edited.mrk.json").write_text(json.dumps(document))
    edited, placed = marks.moved(found, {"femur": "femur"}, tmp_path / "edited.mrk.json")
    again = {each.name: each for each in angles(edited, {"femur": "femur"}, {"femur": Certainty(1.0)})}
    assert placed == 1 and again["aLDFA"].degrees == pytest.approx(values["aLDFA"].degrees - 5, abs=0.3)
    assert again["neck-shaft"] == values["neck-shaft"]


@pytest.mark.parametrize("label", ["femur: ankle centre", "tibia: head centre", "head centre", ""])
def test_a_label_that_is_no_landmark_is_named(tmp_path, label):
    document = {
        "markups": [{"type": "Fiducial", "controlPoints": [{"label": label, "id": "7", "position": [0, 0, 0]}]}]
    }
    (tmp_path / "edited.mrk.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="is no landmark of this model; it has 'femur: head centre', "):
        marks.moved({"femur": {"shaft upper": np.zeros(3)}}, {"femur": "femur"}, tmp_path / "edited.mrk.json")


def whole_legs():
    folders = sorted({path.parent for path in BONES.glob("*/*/femur_*.npz") if (path.parent / "tibia_L.npz").exists()})
    return [(folder, which) for folder in folders for which in "LR" if (folder / f"femur_{which}.npz").exists()]


def of_file(path: Path, lowest_mm: float, highest_mm: float) -> Mesh:
    """A person's bone between two shares of its height, closed by flat lids."""
    manifold3d = pytest.importorskip("manifold3d")
    content = np.load(path)
    body = manifold3d.Manifold(manifold3d.Mesh(content["v"].astype(np.float32), content["f"].astype(np.uint32)))
    low, high = content["v"][:, 2].min(), content["v"][:, 2].max()
    lids = (((0, 0, 1), max(low - 1, low + lowest_mm)), ((0, 0, -1), -min(high + 1, low + highest_mm)))
    for normal, offset in lids:
        body = body.trim_by_plane(normal, float(offset))
    made = body.to_mesh()
    return Mesh(np.ascontiguousarray(made.vert_properties[:, :3], np.float32), made.tri_verts.astype(np.uint32))


@pytest.mark.skipif(not BONES.is_dir(), reason="bones of people are not there")
@pytest.mark.parametrize("shown_mm", [150.0, 200.0])
@pytest.mark.long
def test_the_knees_of_people_have_the_angles_of_their_whole_legs(shown_mm):
    inside = total = 0
    for folder, which in whole_legs():
        name = f"femur_{which}.npz"
        tall_mm = float(np.ptp(np.load(folder / name)["v"][:, 2]))
        if tall_mm < 300 or not (folder / f"fibula_{which}.npz").exists():
            continue
        found = []
        for shown, ends in ((np.inf, (True, True)), (shown_mm, (True, False))):
            fibula = LongBone("fibula", of_file(folder / f"fibula_{which}.npz", -np.inf, np.inf), (True, True))
            bone = LongBone("femur", of_file(folder / name, -np.inf, shown), ends)
            landmarks, values = measured({"femur": bone, "fibula": fibula})
            assert side(landmarks["femur"]) == {"L": "left", "R": "right"}[which], folder.name
            found.append(values["aLDFA"])
        low, high = found[1].interval_deg
        inside, total = inside + (low <= found[0].degrees <= high), total + 1
    assert total >= 6 and inside >= total - 1
