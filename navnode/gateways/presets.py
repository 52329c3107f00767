"""Presets of C-arms: how one shows X-rays in its video, found and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec

from navnode.errors import ConfigError
from navnode.files.whole import check_output, refuse_existing, refuse_twice, write_whole
from navnode.files.xrays import read_counts
from navnode.gateways.requests import CArmSetupRequest
from navnode.gateways.setup import CArmFindings, Seen, draw, find, oriented_like, watch

__all__ = ["set_up", "toml_of"]

_EXPLAINED = {
    "picture_px": "width and height of the picture that region, field and masks are for",
    "region": "x, y, width, height of the X-ray in the picture",
    "field_px": "the round field in the region: x, y of its centre, radius",
    "masks": "text in the region",
    "black": "grey value of no radiation",
    "white": "and of most",
    "gamma": "grey values rise as counts to the power of 1 / gamma",
    "held_noise": "noise of capture in grey levels, by which pictures of one exposure differ",
}


def set_up(request: CArmSetupRequest, progress: Callable[[float], None]) -> CArmFindings:
    """Watch a C-arm's video, find out how it shows X-rays, and write a preset and a picture.

    Args:
        progress: called with the share that is done.

    Raises:
        ConfigError: a file exists already or cannot be read or written, or an argument is wrong.
        NavError: the video cannot be opened, or shows no X-rays.
    """
    source = request.source()
    check_output(request.out, ("",))
    refuse_existing(request.out)
    if request.picture is not None:
        check_output(request.picture, ("",))
        refuse_existing(request.picture)
        refuse_twice([request.out, request.picture])
    like = read_counts(request.like) if request.like is not None else None
    seen = watch(source, request.seconds, progress)
    findings = find(seen, True if request.inverted else None)
    if like is not None:
        found = oriented_like(findings, seen, like)
        line = "orientation is not known: no picture is clearly like the X-ray that was given"
        findings = msgspec.structs.replace(
            findings,
            turned_deg=found[0] if found else None,
            mirrored=found[1] if found else None,
            lines=findings.lines if found else (*findings.lines, line),
        )
    else:
        line = "orientation was not looked for (--like): compare the picture with the detector's"
        findings = msgspec.structs.replace(findings, lines=(*findings.lines, line))
    write_whole(request.out, toml_of(findings).encode())
    if request.picture is not None:
        _draw(request.picture, findings, seen)
    return findings


def toml_of(findings: CArmFindings) -> str:
    """A preset as text, each key with what it means, and what was not found."""
    width, height = findings.size_px
    lines = [f"# A C-arm's video of {width} x {height} pixels, {findings.rate_hz:g} a second, by navnode carm setup."]
    for key, value in findings.preset().items():
        text = msgspec.json.encode(value).decode().replace(",", ", ")
        lines.append(f"{key} = {text}" + (f"  # {_EXPLAINED[key]}" if key in _EXPLAINED else ""))
    return "\n".join([*lines, *(f"# {line}" for line in findings.lines)]) + "\n"


def _draw(path: Path, findings: CArmFindings, seen: Seen) -> None:
    done, content = cv2.imencode(".png", draw(findings, seen))
    if not done:
        raise ConfigError(f"{path}: cannot be written")
    write_whole(path, content.tobytes())
