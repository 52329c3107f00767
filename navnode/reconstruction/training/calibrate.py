"""What the stated intervals must be multiplied by to hold, and from which probability on bone is best called bone:
measured on bodies that were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from navnode.projector.native import default_threads
from navnode.reconstruction.engines import read_card, write_card
from navnode.reconstruction.learned import BONE_HU, UNKNOWN_HU, bone_probability
from navnode.reconstruction.methods import Method, Reconstructor
from navnode.reconstruction.training.examples import VIEWS, changed, middle, some_views, xrays
from navnode.types import Array, FloatArray, Grid, Volume

_COUNTS = (2, 3, 4, 6, 8, 12)
_COVERED = 0.95
_DENSITIES = (0.0, 1.25, 2.5, 5.0, 10.0)
_THRESHOLDS = 1 / (1 + np.exp(-np.arange(-8.0, 4.1, 0.25)))
_HU = (-1000.0, 1500.0)
_LEAST_BONE = 1000
"""Voxels; of less bone the coefficient says little."""


def calibrate(
    model: Path,
    bodies: Sequence[Volume],
    drawn: Sequence[Volume] = (),
    *,
    rounds: int = 2,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> float:
    """Set the model's ``sigma_factor`` so that its 95 % intervals hold 95 % of the bodies' voxels on average, and its
    ``bone_density`` and ``bone_threshold`` so that the mean Dice coefficient of bone is highest, of theirs and of the
    drawn bodies'.

    Returns:
        the factor, over what the network itself states.
    """
    _set(model, sigma_factor=1.0, bone_density=0.0)
    reconstructor = Reconstructor(Method.LEARNED, threads, model)
    needed: list[float] = []
    overlaps: list[FloatArray] = []
    given = [*bodies] * rounds + [*drawn]
    for number, source in enumerate(given):
        rng = np.random.default_rng((seed, 3, number))
        body = changed(source, rng)
        inside = middle(body)
        views = xrays(body, inside.volume_from_index, rng, threads or default_threads())
        truth = np.clip(inside.voxels, *_HU)
        for count in _COUNTS:
            chosen = [views[n] for n in some_views(min(count, VIEWS), rng)]
            made = reconstructor.reconstruct(chosen, Grid.around(inside.center_mm, spacing_mm=body.spacing_mm[0]))
            assert made.uncertainty_hu is not None and made.bone is not None
            half = made.uncertainty_hu.voxels
            known = half < UNKNOWN_HU
            hu, bone = made.volume.voxels[known], truth[known] > BONE_HU
            if number < rounds * len(bodies):
                off = np.abs(np.clip(hu, *_HU) - truth[known]) / half[known]
                needed.append(float(np.quantile(off, _COVERED)))
            if bone.sum() >= _LEAST_BONE:
                likely = np.clip(made.bone.voxels[known], 1e-6, 1 - 1e-6)
                logit = np.log(likely / (1 - likely))
                overlaps.append(
                    np.stack([_dice(bone_probability(logit, hu, made.views, weight), bone) for weight in _DENSITIES])
                )
        progress((number + 1) / len(given))
    factor = round(float(np.mean(needed)), 3)
    _set(model, sigma_factor=factor)
    if overlaps:
        mean = np.mean(overlaps, axis=0)
        density, threshold = np.unravel_index(mean.argmax(), mean.shape)
        _set(model, bone_density=_DENSITIES[density], bone_threshold=round(float(_THRESHOLDS[threshold]), 4))
    return factor


def _dice(likely: FloatArray, bone: Array) -> FloatArray:
    """The Dice coefficient at every threshold."""
    bins = np.append(_THRESHOLDS, np.inf)
    of_bone, of_all = (np.histogram(values, bins)[0][::-1].cumsum()[::-1] for values in (likely[bone], likely))
    overlap: FloatArray = 2 * of_bone / (of_all + bone.sum())
    return overlap


def _set(model: Path, **values: float) -> None:
    write_card(model, msgspec.structs.replace(read_card(model), **values))
