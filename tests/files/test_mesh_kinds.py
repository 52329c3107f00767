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
