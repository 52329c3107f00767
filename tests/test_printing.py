"""`navnode print`: what is printed is closed and does not cross itself; else it is refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from navnode.offline.printing import crossings
from navnode.types import Mesh
from tests.invoke import call

pytest.importorskip("manifold3d")


@pytest.fixture(scope="module")
def rod(tmp_path_factory):
    path = tmp_path_factory.mktemp("bones") / "rod.stl"
    trimesh.creation.capsule(height=70, radius=14, count=[48, 48]).export(path)
    return path


def printed(bone, out, *options):
    code, document, error = call("print", bone, "--out", out, *options, "--json")
    assert code == 0, error
    return document, trimesh.load(out)


def refused(bone, out, *options) -> str:
    code, _, error = call("print", bone, "--out", out, *options, "--json")
    assert code == 2 and not out.exists()
    return error


def test_a_hollow_rod_has_the_wall_that_was_asked_for(rod, tmp_path):
    report, solid = printed(rod, tmp_path / "out.stl", "--wall-mm", 3)
    assert solid.is_watertight and solid.volume / 1000 == pytest.approx(report["volume_cm3"], abs=0.05)
    outer, inner = sorted(solid.split(only_watertight=False), key=lambda each: -abs(each.volume))
    radius = np.linalg.norm(inner.vertices[np.abs(inner.vertices[:, 2]) < 20][:, :2], axis=1)
    assert radius.min() > 14 - 4.2 and radius.max() < 14 - 2.9
    assert outer.volume > 0 > inner.volume


def test_scale_and_cut_are_exact(rod, tmp_path):
    report, solid = printed(rod, tmp_path / "out.stl", "--scale", 2, "--cut", "0 0 10 0 0 1")
    low = trimesh.load(rod).bounds
    assert solid.is_watertight and report["size_mm"][2] == pytest.approx(2 * (low[1, 2] - 10), abs=0.1)
    assert solid.bounds[0, 2] == pytest.approx(20, abs=1e-3)


def test_a_label_is_engraved_as_deep_as_it_says(rod, tmp_path):
    _, plain = printed(rod, tmp_path / "plain.stl")
    _, solid = printed(rod, tmp_path / "out.stl", "--label", "L 1")
    taken_mm3 = plain.volume - solid.volume
    assert solid.is_watertight and 5 < taken_mm3 < 40
    deep = 14 - np.linalg.norm(solid.vertices[:, :2], axis=1)[np.abs(solid.vertices[:, 2]) < 10]
    assert 0.7 < deep.max() < 1.8


def test_what_cannot_be_printed_is_refused_with_the_reason(rod, tmp_path):
    solid, out = trimesh.load(rod), tmp_path / "out.stl"
    opened = trimesh.Trimesh(solid.vertices, solid.faces[1:])
    opened.export(tmp_path / "open.stl")
    assert "not closed" in refused(tmp_path / "open.stl", out)
    trimesh.Trimesh(solid.vertices, solid.faces[:, ::-1], process=False).export(tmp_path / "inverted.stl")
    assert "inside out" in refused(tmp_path / "inverted.stl", out)
    both = trimesh.util.concatenate([solid, solid.copy().apply_translation([9.3, 1.7, 5.1])])
    both.export(tmp_path / "crossing.stl")
    assert "crosses itself" in refused(tmp_path / "crossing.stl", out)
    assert "nothing hollow" in refused(rod, out, "--wall-mm", 19)
    assert "leaves nothing of the bone" in refused(rod, out, "--cut", "0 0 500 0 0 1")
    assert "six numbers" in refused(rod, out, "--cut", "0 0 5")
    assert "does not fit" in refused(rod, out, "--label", "a label that is much too long")


def test_crossings_are_counted_and_touching_is_none():
    box = trimesh.creation.box((2, 2, 2))
    other = trimesh.creation.box((1, 1, 4)).apply_translation((0.11, 0.07, 0))
    both = trimesh.util.concatenate([box, other])

    def counted(solid) -> int:
        return crossings(Mesh(solid.vertices.astype(np.float32), solid.faces.astype(np.uint32)))

    assert counted(box) == 0 and counted(both) > 0
