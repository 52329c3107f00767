"""Surfaces: the space that a header names applies, and what is cut short is refused."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.errors import ConfigError
from navnode.files.meshes import read_mesh, write_mesh
from navnode.types import Mesh

VERTICES = np.array([[0, 1, 2], [30, 4, 5], [6, 40, 8], [9, 10, 50]], np.float32)
MESH = Mesh(VERTICES, np.array([[0, 1, 2], [1, 2, 3]], np.uint32))
PLY = (
    "ply\nformat ascii 1.0\n{}element vertex 3\nproperty float x\nproperty float y\nproperty float z\nelement face 1\n"
)
PLY += "property list uchar int vertex_indices\nend_header\n1 2 3\n40 5 6\n7 80 9\n3 0 1 2\n"


@pytest.mark.parametrize("ending", ["stl", "ply"])
def test_surfaces_that_are_cut_are_refused(tmp_path, ending):
    path = tmp_path / f"bone.{ending}"
    write_mesh(MESH, path)
    content = path.read_bytes()
    assert len(read_mesh(path).triangles) == 2
    path.write_bytes(content[:-3])
    with pytest.raises(ConfigError, match=f"bone.{ending}"):
        read_mesh(path)


def test_the_space_of_a_header_applies(tmp_path):
    path = tmp_path / "bone.ply"
    for comment, signs in (("", 1), ("comment SPACE=RAS\n", 1), ("comment SPACE=LPS\n", [-1, -1, 1])):
        path.write_text(PLY.format(comment))
        assert np.allclose(read_mesh(path).vertices_mm, np.array([[1, 2, 3], [40, 5, 6], [7, 80, 9]]) * signs)
    path.write_text(PLY.format("comment SPACE=IJK\n"))
    with pytest.raises(ConfigError, match="SPACE=IJK"):
        read_mesh(path)


def test_a_binary_stl_may_begin_as_text_does(tmp_path):
    path = tmp_path / "bone.stl"
    write_mesh(MESH, path)
    content = path.read_bytes()
    for start in (b"solid of a program", b"solid facet normal", b"SOLID facet"):
        path.write_bytes(start.ljust(80) + content[80:])
        assert np.allclose(read_mesh(path).vertices_mm.max(axis=0), [30, 40, 50])


CORNERS = [[0, 1, 2], [30, 4, 5], [6, 40, 8], [9, 10, 50]]
FACES = [[1, 3, 2], [1, 2, 4], [2, 3, 4], [3, 1, 4]]


def obj(path, faces=FACES, after="", vertex="v {} {} {}\n", face="f {} {} {}\n"):
    path.write_text("".join(vertex.format(*at) for at in CORNERS) + "".join(face.format(*f) for f in faces) + after)
    return path


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"faces": [[n - 5 for n in face] for face in FACES]},
        {"face": "f {} {} \\\n  {}\n"},
        {"face": "f {0}/1/1 {1}/1/1 {2}/1/1\n"},
        {"face": "g a\nusemtl b\nf {0}//1 {1}//1 {2}//1\n"},
        {"vertex": "v {} {} {} 1.0\n"},
        {"vertex": "v {} {} {} 0.2 0.3 0.4\n"},
        {"vertex": "vn 0 0 1\nvt 0 0\nv {} {} {}\n"},
    ],
)
def test_what_an_obj_may_say(tmp_path, more):
    mesh = read_mesh(obj(tmp_path / "bone.obj", **more))
    corners = mesh.vertices_mm[mesh.triangles].astype(float)
    assert corners.shape == (4, 3, 3)
    assert np.allclose(corners, np.array(CORNERS, float)[np.array(FACES) - 1])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"faces": [[-1, -2, -5]]}, "vertices that came before"),
        ({"faces": [[0, 1, 2]]}, "vertices that came before"),
        ({"vertex": "v {} {} {} 2.0\n"}, "weight 2"),
        ({"vertex": "v {} {} {} 0.5 1 1 1\n"}, "weight 0.5"),
        ({"after": "f 1 2 \\\n"}, "three or more vertices"),
    ],
)
def test_what_an_obj_may_not_say(tmp_path, more, reason):
    with pytest.raises(ConfigError, match=rf"bone\.obj.*{reason}"):
        read_mesh(obj(tmp_path / "bone.obj", **more))
