"""Register an X-ray on disk to a CT, from a start that is a few millimetres off.

navnode sample tryout
python examples/register_files.py tryout/ct.nii.gz tryout/views.json
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from navnode import geometry as g
from navnode.files.views import read_views
from navnode.files.volumes import read_volume
from navnode.registration import ImageRegistration, register_counts
from navnode.types import Effort


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("ct")
    wanted.add_argument("views", help="navnode/views/1, whose poses are taken for the truth")
    arguments = wanted.parse_args()

    ct = read_volume(arguments.ct)
    view = read_views(arguments.views)[0]
    true_volume_from_carm = view.pose()
    # Rotation (rad) and translation (mm) in the axes of the C-arm, about the point of the principal ray at that depth.
    pivot_mm = float(g.transform(g.inverse(true_volume_from_carm), ct.center_mm)[2])
    start = true_volume_from_carm @ g.exp(np.array([0.02, -0.01, 0.03, 3.0, -4.0, 5.0]), (0.0, 0.0, pivot_mm))

    found = register_counts(ImageRegistration(ct), view.counts(), view.carm, start, pivot_mm, Effort.REFINE)
    print(f"{found.validity.status}: {found.validity.reason or 'nothing speaks against it'}")
    print(f"likeness {found.similarity:.3f}, {found.elapsed_ms:.0f} ms")
    for name, volume_from_carm in (("start", start), ("found", found.volume_from_carm)):
        off = g.log(g.inverse(true_volume_from_carm) @ volume_from_carm, (0.0, 0.0, pivot_mm))
        across_mm, depth_mm = float(np.hypot(off[3], off[4])), abs(float(off[5]))
        turned_deg = float(np.rad2deg(np.linalg.norm(off[:3])))
        print(f"{name}: {across_mm:.2f} mm across the beam, {depth_mm:.2f} mm along it, {turned_deg:.2f} degrees off")
    # A pose that is INVALID must not be used, however near it may be.
    if not found.validity.usable:
        sys.exit(1)


if __name__ == "__main__":
    main()
