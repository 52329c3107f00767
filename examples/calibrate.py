"""Calibrate a tool's tip from poses of your own: turn the tool about its tip, which rests in a divot.

    python examples/calibrate.py poses.npy --keep drill.json

`poses.npy` holds tracker_from_tool as an array (N, 4, 4), millimetres. What did not pass is not written. The node loads
the file where a tool of its configuration names it as `pivot`: docs/calibration.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from navnode_calibration.pivot import pivot

from navnode.clock import now_ns
from navnode.files import artifacts


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("poses", type=Path)
    wanted.add_argument("--device", default="DrillToTracker", help="the tracker's name of the tool (%(default)s)")
    wanted.add_argument("--keep", type=Path, metavar="JSON", help="write what passed")
    arguments = wanted.parse_args()

    calibration = pivot(np.load(arguments.poses, allow_pickle=False))
    for figure in calibration.figures:  # everything that it is judged by, beside its limit
        bound = "at least" if figure.gate.at_least else "at most"
        mark = " " if figure.kept else "!"
        print(f"{mark} {figure.gate.what}: {figure.value} {figure.gate.unit} ({bound} {figure.limit})")
    if not calibration.passed:
        raise SystemExit(calibration.reason)
    print(f"the tip in the tool's frame, mm: {calibration.result.tip_mm}")
    if arguments.keep is not None:
        artifacts.write(arguments.keep, calibration.artifact(now_ns(), device=arguments.device))
        print(f"kept as {arguments.keep}")


if __name__ == "__main__":
    main()
