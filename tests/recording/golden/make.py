"""Makes the golden session: four seconds of the virtual operating room, 12 X-rays of 256 x 256 of a drawn body.

python tests/recording/golden/make.py && navnode replay tests/recording/golden/room.mcap --update-reference REASON
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from mcap.writer import CompressionType, Writer

from navnode import config
from navnode.commands.demo import DemoRequest, demo_config
from navnode.config import SimulatorSection
from navnode.igtl import Image, Transform, encode
from navnode.loop.backends import backends_of
from navnode.recording.tap import about
from navnode.simulation import room

BEGAN_NS = 1_700_000_000_000_000_000
SECONDS, RATE_HZ, SIZE_PX = 4.0, 3.0, 256


def entries(settings: SimulatorSection):
    """(arrival, message), in the order of arrival: poses 12 ms after they were measured, X-rays 40 ms."""
    prepared = room.load(room.prepare(settings), settings)
    simulated, scenario = room.Room(prepared, settings), prepared.scenario
    found = []
    for n in range(round(SECONDS * settings.pose_rate_hz)):
        stamp = BEGAN_NS + round(n * 1e9 / settings.pose_rate_hz)
        for device, poses in simulated._poses.items():
            pose = poses[n]
            status = {"TransformStatus": "OK" if pose is not None else "MISSING"}
            matrix = np.eye(4) if pose is None else pose
            moved = Transform(device=device, timestamp_ns=stamp, matrix=matrix, metadata=status, version=2)
            found.append((stamp + 12_000_000, moved))
        told = Transform(device=scenario.truth_tool, timestamp_ns=stamp, matrix=simulated._truth_tool[n])
        found.append((stamp + 12_000_000, told))
    spacing = simulated._carm.pixel_spacing_mm
    for n in range(round(SECONDS * RATE_HZ)):
        stamp = BEGAN_NS + round(n * 1e9 / RATE_HZ)
        picture = Image(
            device="XRay",
            timestamp_ns=stamp,
            voxels=np.array(simulated._counts[n])[None],
            version=2,
            ras_from_index=np.diag([spacing[0], spacing[1], 1.0, 1.0]),
            metadata=room.angles_metadata(*simulated._angles_rad[n]),
        )
        truth = Transform(device=room.TRUTH_CARM, timestamp_ns=stamp, matrix=simulated._truth_carm[n])
        found += [(stamp + 40_000_000, picture), (stamp + 40_000_000, truth)]
    patient = Transform(device=room.TRUTH_PATIENT, timestamp_ns=BEGAN_NS, matrix=scenario.volume_from_patient)
    return sorted([*found, (BEGAN_NS + 1, patient)], key=lambda pair: pair[0])


def main(path: Path) -> None:
    settings = SimulatorSection(ct="procedural", size_px=SIZE_PX, frame_rate_hz=RATE_HZ)
    loaded = demo_config(config.load(config.shipped("demo.toml")), settings, DemoRequest(headless=True))
    reconstruction = msgspec.structs.replace(loaded.reconstruction, enabled=False)
    told = about(
        msgspec.structs.replace(loaded, reconstruction=reconstruction), backends_of(reconstruction), from_start=True
    )
    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType.ZSTD)
        writer.start(profile="navnode", library="navnode")
        writer.add_metadata("navnode", {**told.metadata, "session": "golden", "began_ns": str(BEGAN_NS), "format": "1"})
        writer.add_attachment(0, 0, "configuration.json", "application/json", told.attachments["configuration.json"])
        schema, channels = writer.register_schema("openigtlink", "", b""), {}
        for number, (received_ns, message) in enumerate(entries(settings), 1):
            topic = f"in/{message.type}/{message.device}"
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "openigtlink", schema)
            writer.add_message(channels[topic], received_ns, encode(message), message.timestamp_ns, number)
        writer.finish()


if __name__ == "__main__":
    main(Path(__file__).with_name("room.mcap"))
