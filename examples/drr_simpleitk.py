"""An X-ray image of a CT that SimpleITK reads, as a picture.

navnode sample tryout
python examples/drr_simpleitk.py tryout/ct.nii.gz --out drr.png --orbital-deg 30

It needs navnode-projector and SimpleITK, not all of navnode.
"""

from __future__ import annotations

import argparse

import numpy as np
import SimpleITK as sitk

from navnode.itk import volume_of
from navnode.projector import Projector
from navnode.types import CArm, Matrix


def pose_around(center_mm: Matrix, source_mm: float, orbital_deg: float) -> Matrix:
    """volume_from_carm (4, 4): from in front (AP) at 0 degrees, from the patient's right at 90; head up."""
    angle = np.deg2rad(orbital_deg)
    towards_detector = np.array([-np.sin(angle), -np.cos(angle), 0.0])  # RAS: from anterior to posterior
    down = np.array([0.0, 0.0, -1.0])
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack([np.cross(down, towards_detector), down, towards_detector])
    pose[:3, 3] = center_mm - source_mm * towards_detector
    return pose


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("ct", help="whatever SimpleITK reads, in HU")
    wanted.add_argument("--out", default="drr.png", help="PNG, TIFF or another format of SimpleITK")
    wanted.add_argument("--orbital-deg", type=float, default=0.0, help="0: AP; 90: from the patient's right")
    wanted.add_argument("--size", type=int, default=512, help="pixels along each side")
    arguments = wanted.parse_args()

    ct = volume_of(sitk.ReadImage(arguments.ct))
    side, middle = arguments.size, (arguments.size - 1) / 2
    carm = CArm(side, side, (420.0 / side,) * 2, 1020.0, (middle, middle))  # a detector of 42 cm
    line = Projector(ct).render(carm, pose_around(ct.center_mm, 700.0, arguments.orbital_deg))
    shown = np.round(255 * line / max(float(line.max()), 1e-6))  # bone is bright
    sitk.WriteImage(sitk.GetImageFromArray(shown.astype(np.uint8)), arguments.out)
    print(f"{arguments.out}: {side} x {side}, line integrals up to {line.max():.2f}")


if __name__ == "__main__":
    main()
