"""A console in a few lines, with pyigtl: prints where the drill's tip is while it may be trusted.

    pip install pyigtl
    navnode demo --headless &
    python examples/pyigtl_console.py --seconds 10

A console must not show a transform whose TransformStatus is not OK: its matrix is then the identity. The node
sends statuses to clients that speak header version 2, and answers pyigtl in version 1 until it does: hence the first
message.
"""

from __future__ import annotations

import argparse
import time

import pyigtl


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted.add_argument("--host", default="127.0.0.1")
    wanted.add_argument("--port", type=int, default=18944)
    wanted.add_argument("--device", default="DrillToVolume")
    wanted.add_argument("--seconds", type=float, default=10.0)
    arguments = wanted.parse_args()

    client = pyigtl.OpenIGTLinkClient(arguments.host, arguments.port)
    hello = pyigtl.StringMessage("hello", device_name="example")
    hello.header_version = 2
    client.send_message(hello)
    shown = withheld = 0
    ends_s = time.monotonic() + arguments.seconds
    try:
        while time.monotonic() < ends_s:
            message = client.wait_for_message(arguments.device, timeout=1)
            if message is None:
                print(f"{arguments.device}: nothing for a second: not shown")
                continue
            if message.metadata.get("TransformStatus") != "OK":
                withheld += 1
                continue
            shown += 1
            if shown % 20 == 1:
                x, y, z = message.matrix[:3, 3]
                print(f"tip at R {x:.1f}  A {y:.1f}  S {z:.1f} mm, {message.metadata.get('Validity', '')}")
    finally:
        client.stop()
    print(f"{shown} poses shown, {withheld} withheld")


if __name__ == "__main__":
    main()
