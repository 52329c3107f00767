"""What the stated intervals must be multiplied by to hold: measured on bodies that were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from navnode.projector.native import default_threads
from navnode.reconstruction.engines import read_card, write_card
from navnode.reconstruction.learned import UNKNOWN_HU
from navnode.reconstruction.methods import Method, Reconstructor
from navnode.reconstruction.training.examples import VIEWS, changed, middle, xrays
from navnode.reconstruction.training.train import some_views
from navnode.types import Volume

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

    Returns:
        the factor, over what the network itself states.
    """
    _set(model, 1.0)
    reconstructor, needed = Reconstructor(Method.LEARNED, threads, model), []
    for number in range(rounds * len(bodies)):
        rng = np.random.default_rng((seed, 3, number))
        body = changed(bodies[number % len(bodies)], rng)
        inside = middle(body)
        views = xrays(body, inside.volume_from_index, rng, threads or default_threads())
        truth = np.clip(inside.voxels, *_HU)
        for count in _COUNTS:
            chosen = [views[n] for n in some_views(min(count, VIEWS), rng)]
            made = reconstructor.reconstruct(chosen, spacing_mm=body.spacing_mm[0], center_mm=inside.center_mm)
            assert made.uncertainty_hu is not None
            half = made.uncertainty_hu.voxels
            known = half < UNKNOWN_HU
            off = np.abs(np.clip(made.volume.voxels, *_HU) - truth)[known] / half[known]
            needed.append(float(np.quantile(off, _COVERED)))
        progress((number + 1) / (rounds * len(bodies)))
    factor = round(float(np.mean(needed)), 3)
    _set(model, factor)
    return factor


def _set(model: Path, factor: float) -> None:
    write_card(model, msgspec.structs.replace(read_card(model), sigma_factor=factor))
