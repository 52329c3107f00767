"""A volume and a surface of bone from X-rays on disk whose poses are known.

navnode sample tryout
python examples/reconstruct_files.py tryout/views.json --out volume.nii.gz --mesh bone.stl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from navnode.errors import NavError
from navnode.files.meshes import write_mesh
from navnode.files.views import read_views
from navnode.files.volumes import write_volume
from navnode.geometry import where_rays_meet
from navnode.offline.views import view_of
from navnode.reconstruction import Method, Reconstructor
from navnode.types import Grid, Status


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("views", help="navnode/views/1, with poses")
    wanted.add_argument("--out", type=Path, default=Path("volume.nii.gz"))
    wanted.add_argument("--mesh", type=Path, default=Path("bone.stl"))
    wanted.add_argument("--size", type=int, default=96, help="voxels along each side")
    wanted.add_argument("--spacing-mm", type=float, default=3.0)
    wanted.add_argument("--method", type=Method, default=Method.AUTO, choices=list(Method))
    arguments = wanted.parse_args()

    views = [view_of(file) for file in read_views(arguments.views)]
    center_mm = where_rays_meet([view.volume_from_carm for view in views])
    try:
        made = Reconstructor(arguments.method).reconstruct(
            views, Grid.around(center_mm, arguments.size, arguments.spacing_mm)
        )
    except NavError as error:
        sys.exit(str(error))
    print(f"{made.status}: {made.reason}")
    # What is INVALID must not be looked at as if it were anatomy.
    if made.status is Status.INVALID:
        sys.exit(1)
    write_volume(made.volume, arguments.out)
    print(f"{arguments.out}: {made.method.value} by {made.engine}")
    surface = made.surface()
    if surface is None or made.doubtful_bone:
        print(made.doubtful_bone or "no bone")
        return
    write_mesh(surface.mesh, arguments.mesh)
    print(f"{arguments.mesh}: {len(surface.mesh.triangles)} triangles")


if __name__ == "__main__":
    main()
