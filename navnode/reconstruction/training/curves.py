"""Plots the losses of a training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

__all__ = ["draw"]

_SHOWN = {
    "mse": "squared error of attenuation, (HU/1000)²",
    "dice": "bone, 1 - Dice",
    "stated": "loss of the stated interval",
}
_SMOOTHED_STEPS = 100


def draw(losses: Path, picture: Path) -> None:
    """Plot every loss over the steps, and its running median.

    Args:
        losses: ``losses.jsonl`` of a training.
        picture: file to write.
    """
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in losses.read_text().splitlines()]
    steps = np.array([row["step"] for row in rows])
    figure = Figure(figsize=(4.2 * len(_SHOWN), 3.2), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(1, len(_SHOWN)), _SHOWN.items(), strict=True):
        values = np.array([row[key] for row in rows])
        axis.plot(steps, values, ",", color="#9aa5b4")
        if len(values) > _SMOOTHED_STEPS:
            windows = np.lib.stride_tricks.sliding_window_view(values, _SMOOTHED_STEPS)
            axis.plot(steps[_SMOOTHED_STEPS - 1 :], np.median(windows, axis=1), color="#1d5fbf")
        low, high = np.percentile(values, (1, 99))
        axis.set_ylim(low - 0.05 * (high - low) - 1e-6, high + 0.05 * (high - low) + 1e-6)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
    figure.savefig(picture, dpi=110)
