"""Analyse a recorded session: how long the drill could be trusted, and how still the C-arm stood.

    python examples/session.py room.mcap --plot session.png

A session comes from `navnode demo --record room.mcap`, or from the button on the page. The plot needs
`pip install 'navnode[analysis]'`.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

import navnode


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("session")
    wanted.add_argument("--plot", metavar="PNG", help="draw statuses and the expected error over time")
    arguments = wanted.parse_args()

    session = navnode.Session(arguments.session)  # nothing is read yet
    print(session)

    # What arrived: poses as arrays, NaN where the tracker did not see the marker.
    for device in session.devices:
        poses = session.poses(device)
        line = f"{device}: {len(poses.time_s)} poses, seen {poses.seen.mean():.0%}"
        if poses.seen.any():
            position_mm = poses.matrix[poses.seen][:, :3, 3]
            line += f", within {np.ptp(position_mm, axis=0).max():.0f} mm"
        print(line)

    # What the node said of every tool: how often it was VALID, and why it was not.
    for name in (topic.removeprefix("out/") for topic in session.topics if topic.startswith("out/tool/")):
        said = [output["validity"] for output in session.outputs(name)]
        statuses = Counter(validity["status"] for validity in said)
        print(f"{name}: " + ", ".join(f"{status} {count / len(said):.0%}" for status, count in statuses.most_common()))
        reasons = Counter(validity["reason"] for validity in said if validity["reason"])
        for reason, count in reasons.most_common(3):
            print(f"    {count} times: {reason}")

    # X-rays, one by one.
    brightness = [float(xray.counts.mean()) for xray in session.frames()]
    print(f"{len(brightness)} X-rays, mean counts {min(brightness):.0f} to {max(brightness):.0f}")

    if arguments.plot:
        session.plot().savefig(arguments.plot)
        print(f"drawn: {arguments.plot}")


if __name__ == "__main__":
    main()
