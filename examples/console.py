"""A console in a few lines, with navnode.igtl: prints where the tip of the drill is, and how far to trust that.

navnode demo --headless &
python examples/console.py --seconds 10
"""

from __future__ import annotations

import argparse
import time

from navnode.igtl import BlockingClient, Transform


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--host", default="127.0.0.1")
    wanted.add_argument("--port", type=int, default=18944)
    wanted.add_argument("--device", default="DrillToVolume")
    wanted.add_argument("--seconds", type=float, default=10.0)
    arguments = wanted.parse_args()

    ends_s, said = time.monotonic() + arguments.seconds, ""
    shown = withheld = 0
    with BlockingClient(arguments.host, arguments.port) as node:
        while time.monotonic() < ends_s:
            try:
                pose = node.wait_for(arguments.device, timeout_s=0.4)
            except TimeoutError:
                pose = None
            if not isinstance(pose, Transform):
                status, reason = "INVALID", "the node is silent"
            else:
                status, reason = pose.metadata.get("Validity", "INVALID"), pose.metadata.get("Reason", "")
            # The transform of what is INVALID is the identity: it must not be drawn.
            usable = (
                isinstance(pose, Transform) and status != "INVALID" and pose.metadata.get("TransformStatus") == "OK"
            )
            shown, withheld = shown + usable, withheld + (not usable)
            if usable and shown % 20 == 1:
                right, front, head = pose.matrix[:3, 3]
                print(f"tip at R {right:.1f}  A {front:.1f}  S {head:.1f} mm")
            if (told := f"{status} {reason}".strip()) != said:
                said = told
                print(told)
    print(f"{shown} poses shown, {withheld} withheld")


if __name__ == "__main__":
    main()
