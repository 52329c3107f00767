"""Calibrates the stated intervals of HU on bodies that the training did not use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from navnode.projector.native import default_threads
from navnode.reconstruction import engines, models
from navnode.reconstruction.learned import UNKNOWN_HU, Accumulator
from navnode.reconstruction.training.examples import VIEWS, changed, middle, some_views, xrays
from navnode.types import Volume

__all__ = ["calibrate"]

_COUNTS = (2, 3, 4, 6, 8, 12)
_COVERED = 0.95
_HU = (-1000.0, 1500.0)


def calibrate(
    model: Path,
    bodies: Sequence[Volume],
    *,
    rounds: int = 2,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> float:
    """Set the model's ``sigma_factor`` so that its 95 % intervals hold 95 % of the bodies' voxels on average.

    Args:
        model: its folder.
        rounds: how often each body is used, changed at random.
        threads: default: all cores.
        seed: random seed.

    Returns:
        The factor on what the network itself states.
    """
    card = msgspec.structs.replace(models.read_card(model), sigma_factor=1.0)
    models.write_card(model, card)
    networks = engines.load(model, threads=threads or 0)
    needed: list[float] = []
    given = [*bodies] * rounds
    for number, source in enumerate(given):
        rng = np.random.default_rng((seed, 3, number))
        body = changed(source, rng)
        inside = middle(body)
        views = xrays(body, inside.volume_from_index, rng, threads or default_threads())
        truth = np.clip(inside.voxels, *_HU)
        for count in _COUNTS:
            sums = Accumulator(networks, inside.center_mm, body.spacing_mm[0], threads)
            for n in some_views(min(count, VIEWS), rng):
                sums.add(views[n])
            made = sums.result()
            half = made.uncertainty_hu.voxels
            known = half < UNKNOWN_HU
            off = np.abs(np.clip(made.volume.voxels[known], *_HU) - truth[known]) / half[known]
            needed.append(float(np.quantile(off, _COVERED)))
        progress((number + 1) / len(given))
    factor = round(float(np.mean(needed)), 3)
    models.write_card(model, msgspec.structs.replace(card, sigma_factor=factor))
    return factor
