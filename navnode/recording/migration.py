"""Converts sessions of older formats to the present one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from navnode.types import LatencyFigures, RecordingState

__all__ = ["outputs", "unknown_to"]

_STATE = "out/state"
_CT = "out/volume/navigation"
_SURFACE = "out/surface.request"


def outputs(format: int) -> Callable[[str, bytes], bytes]:
    """A converter (topic, data) -> data from a format to the present one.

    Format 1 kept figures of the state in a dictionary without a schema, and -1 for an X-ray that never came.
    """
    return _unchanged if format >= 2 else _from_1


def unknown_to(format: int, topic: str, data: bytes) -> bool:
    """Whether sessions of a format do not hold outputs of this kind.

    In format 1 the CT and its bone surface bypassed the loop on their way to displays.
    """
    if format >= 2:
        return False
    return topic == _SURFACE or (topic == _CT and msgspec.json.decode(data).get("method") == "CT")


def _unchanged(topic: str, data: bytes) -> bytes:
    return data


def _from_1(topic: str, data: bytes) -> bytes:
    if topic != _STATE:
        return data
    state: dict[str, Any] = msgspec.json.decode(data)
    figures: dict[str, float] = state.pop("extra", {})
    age_s = figures.get("xray_age_s", -1.0)
    times = {f"{part}_ms": figures.get(f"volume_{name}ms") for part, name in _TIMES.items()}
    state |= {
        "target_sigma_mm": figures.get("target_sigma_mm"),
        "xray_age_s": age_s if age_s >= 0 else None,
        "volume_times": times if "volume_ms" in figures else None,
        "recording": RecordingState(),
        "latency_ms": LatencyFigures(),
        "overlay_latency_ms": LatencyFigures(),
        "consoles": 0,
        "oriented": True,
    }
    return msgspec.json.encode(state)


_TIMES = {"took": "", "elsewhere": "elsewhere_", "budget": "budget_"}
