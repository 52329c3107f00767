"""What a model's making tells while it works, and making one in a process of its own, as its page does.

A folder holds the request, ``request.json``. The process writes the steps as lines of JSON on standard output, and
pictures of what was read beside the request.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from navnode import geometry as g
from navnode.errors import NavError
from navnode.files.whole import write_whole
from navnode.jig import Jig, Located
from navnode.offline.model_report import ModelReport
from navnode.offline.requests import ModelRequest
from navnode.types import Array

__all__ = [
    "Bead",
    "BeadsRead",
    "BonesRead",
    "Done",
    "Failed",
    "Step",
    "beads_read",
    "preview",
    "read_step",
    "run",
    "write_request",
]

_PREVIEW_PX = 1400
_REQUEST = "request.json"


class Bead(msgspec.Struct, frozen=True):
    """A bead in a picture, as the picture was given."""

    id: str
    u_px: float
    v_px: float


class BeadsRead(msgspec.Struct, frozen=True, kw_only=True, tag="beads"):
    """What the jig's beads tell of a picture."""

    number: int
    width_px: int
    height_px: int
    radius_px: float
    """Of a bead's shadow."""
    beads: list[Bead]
    """Found and named."""
    missing: list[Bead]
    """Where the geometry has the others, within the picture."""
    others_px: list[tuple[float, float]]
    """Spots that look like beads and have no name."""
    status: str
    reason: str
    focal_px: float
    preview: str
    """A picture to look at, beside the request; '' if none is written."""


class BonesRead(msgspec.Struct, frozen=True, kw_only=True, tag="bones"):
    """What was read of bone in a picture."""

    number: int
    kinds: dict[str, float]
    """Share of each kind in all bone; empty where they cannot be told apart."""
    drawn: str
    """A picture of it, beside the request."""


class Share(msgspec.Struct, frozen=True, tag="share"):
    """How much is done, 0 to 1."""

    share: float


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The report of a model that was made, or cannot be."""

    report: ModelReport


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Why nothing was made."""

    reason: str


Step = Share | BeadsRead | BonesRead | Done | Failed


def beads_read(number: int, counts: Array, found: Located, jig: Jig, preview_name: str = "") -> BeadsRead:
    """What the beads tell of a picture (H, W).

    Args:
        number: of the picture, from 1.
        found: what the jig told of it.
    """
    height, width = counts.shape
    missing: list[Bead] = []
    radius_px = max(width, height) / 150
    if found.beads:
        carm_from_jig = g.inverse(found.jig_from_carm)
        at = g.project(found.carm, carm_from_jig, jig.positions_mm)
        if found.mirrored:
            at[:, 0] = width - 1 - at[:, 0]
        missing = [
            _bead(name, (u, v))
            for name, (u, v) in zip(jig.ids, at, strict=True)
            if 0 <= u <= width - 1 and 0 <= v <= height - 1 and name not in found.ids
        ]
        radius_px = jig.diameter_mm / 2 * found.focal_px / found.pivot_mm
    named = np.zeros((0, 2)) if found.spots_px is None else found.spots_px
    others = np.zeros((0, 2)) if found.others_px is None else found.others_px
    return BeadsRead(
        number=number,
        width_px=width,
        height_px=height,
        radius_px=round(float(radius_px), 1),
        beads=[_bead(name, place) for name, place in zip(found.ids, named, strict=True)],
        missing=missing,
        others_px=[(round(float(u), 2), round(float(v), 2)) for u, v in others],
        status=found.validity.status.value,
        reason=found.validity.reason,
        focal_px=round(found.focal_px, 1),
        preview=preview_name,
    )


def _bead(name: str, at_px: Any) -> Bead:
    return Bead(name, round(float(at_px[0]), 2), round(float(at_px[1]), 2))


def preview(counts: Array) -> Array:
    """A picture (H, W) as it is looked at, uint8: bone light, at most some 1400 px wide."""
    line = -np.log(np.maximum(np.asarray(counts, np.float32), 1.0))
    smaller = max(1.0, max(line.shape) / _PREVIEW_PX)
    size = round(line.shape[1] / smaller), round(line.shape[0] / smaller)
    line = np.asarray(cv2.resize(line, size, interpolation=cv2.INTER_AREA), np.float32)
    low, high = np.percentile(line, [0.5, 99.7])
    return np.asarray(np.clip((line - low) * (255 / max(high - low, 1e-3)), 0, 255), np.uint8)


def write_request(folder: Path, request: ModelRequest) -> None:
    """Write the request that :func:`run` answers.

    Raises:
        ConfigError: it cannot be written.
    """
    write_whole(folder / _REQUEST, msgspec.json.encode(request, enc_hook=str))


def read_step(line: bytes) -> Step:
    """A line that :func:`run` wrote.

    Raises:
        ValueError: it is none.
    """
    step: Step = msgspec.json.decode(line, type=Step)
    return step


def run(folder: Path) -> None:
    """Answer the request in a folder; tells every step on standard output, also why nothing was made."""
    from navnode.offline.model import model  # here: what is told to the page needs none of it

    def tell(step: Step) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(step) + b"\n")
        sys.stdout.buffer.flush()

    try:
        content = (folder / _REQUEST).read_bytes()
        request = msgspec.json.decode(content, type=ModelRequest, dec_hook=_path)
        tell(Done(model(request, lambda share: tell(Share(round(share, 3))), _Watch(folder, tell))))
    except NavError as error:
        tell(Failed(str(error)))
    except MemoryError:
        tell(Failed("this machine has too little memory for these pictures"))
    except Exception as error:
        tell(Failed(f"internal error ({type(error).__name__})"))
        raise


def _path(kind: type, value: str) -> Any:
    return kind(value)


class _Watch:
    """Tells what was read, with pictures.

    Args:
        tell: takes the steps.
    """

    def __init__(self, folder: Path, tell: Callable[[Step], None]) -> None:
        self._folder, self._tell = folder, tell

    def beads(self, number: int, counts: Array, found: Located, jig: Jig) -> None:
        self._write(name := f"preview-{number}.jpg", preview(counts))
        self._tell(beads_read(number, counts, found, jig, name))

    def bones(self, number: int, drawn: Array, kinds: dict[str, float]) -> None:
        self._write(name := f"bones-{number}.jpg", drawn)
        self._tell(BonesRead(number=number, kinds=kinds, drawn=name))

    def _write(self, name: str, picture: Array) -> None:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
        write_whole(self._folder / name, data.tobytes())
