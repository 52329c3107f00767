"""What a training goes on from after it was stopped, or killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from navnode.errors import ConfigError
from navnode.files.whole import whole

__all__ = ["end_at", "resume", "save"]


def save(path: Path, parts: Mapping[str, Any], step: int) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        parts: networks and optimisers by name.

    Raises:
        ConfigError: it cannot be written.
    """
    kept = {name: part.state_dict() for name, part in parts.items()}
    try:
        with whole(path) as partial:
            torch.save({**kept, "step": step}, partial)
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError where a disk is full
        raise ConfigError(f"{path}: cannot be written ({str(error).splitlines()[0]})") from error


def resume(path: Path, parts: Mapping[str, Any], device: str = "cpu") -> int:
    """Give networks and optimisers what a checkpoint holds of them; return its step, 0 where there is none yet.

    Args:
        parts: by the names under which they were saved.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: it is damaged, or of other networks.
    """
    if not path.exists():
        return 0
    try:
        kept = torch.load(path, weights_only=True, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        return int(kept["step"])
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # torch's readers raise exceptions without a common base class
        raise ConfigError(
            f"{path}: damaged, or of another network; move it away to begin anew, or train into another folder"
        ) from error


def end_at(lines: Path, step: int) -> None:
    """Leave out what a training that was killed had written after its checkpoint, and a line that is torn.

    Args:
        lines: a JSON object with ``step`` in each.
    """
    if not lines.exists():
        return
    content = lines.read_bytes()
    kept = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n") and _step_of(line) <= step]
    if sum(map(len, kept)) < len(content):
        with whole(lines) as partial:
            partial.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")
