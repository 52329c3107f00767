"""Trains the network that finds lungs: on bodies that a trained reader reads, then lifted, and their true lungs.

The reader knows the patients that it was trained on, and reads them better than others: readings are degraded before
the lift (:func:`misread`), up to overlooking the lungs of a whole view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from navnode.errors import ConfigError
from navnode.reconstruction.lift import solid
from navnode.reconstruction.lungs import SEEN, evidence, lifted
from navnode.reconstruction.network import LungNet, ReaderNet
from navnode.reconstruction.reading import Reading
from navnode.reconstruction.training.bodies import Seen, path_of, read, write, x_rayed
from navnode.reconstruction.training.exported import LUNG_GRAPHS
from navnode.reconstruction.training.learner import RUN, Files, Learner, Pace, Run, batches_of
from navnode.reconstruction.training.patients import TRAINS, Patient, Region, labelled
from navnode.reconstruction.training.radiographs import body
from navnode.reconstruction.training.refining import (
    VIEWS_SCORED,
    bodies,
    compared,
    load_reader,
    misread,
    objective,
    read_to_validate,
    seen_by_chance,
    smooth,
    weight_of,
)
from navnode.types import FloatArray, Grid, Matrix

__all__ = ["CHECKPOINT_FILE", "PACE", "Example", "Examples", "Score", "files_in", "render_chests", "score", "train"]

CHECKPOINT_FILE = "lungs.pt"
PACE = Pace(warm_up=100, averaging=0.998, score_every=200, save_every=100)
_BODIES = 12
"""Bodies of each trunk per round; there are few trunks."""
_HEADS = 25
"""Heads and necks, with the tips of lungs, rendered per round; the next round takes the next patients."""
_LEAST_CM3 = 20.0
"""Less lung is not scored."""
_KEPT = 64
"""Examples that each worker keeps ready."""
_REUSED = 6
"""Uses of an example per new one: reading takes longer than learning."""
_OVERLOOKED, _INVENTED = 0.12, 0.1
"""Shares of views in which the reader is made to overlook most of the lungs, and to see some where there are none."""
_HEADS_SCORED = 2


@dataclass(frozen=True)
class Score:
    """Median Dice coefficients of lung, 0..1, of validation patients: by the lift alone, and found."""

    lifted: float
    found: float
    found_least: float
    """The least of ``found``."""


@dataclass(frozen=True)
class Example:
    """One body, read and lifted, on its grid for lungs, (k, j, i)."""

    evidence: FloatArray
    """(CHANNELS, k, j, i)"""
    lifted: FloatArray
    """Lung by the lift alone, 0 or 1."""
    lungs: FloatArray
    """Share of lung in every voxel."""


def render_chests(
    listed: Sequence[Patient],
    labels: Path,
    out: Path,
    rounds: int,
    report: Callable[[int, int], None] = lambda made, of: None,
) -> int:
    """Render the missing bodies of some rounds, of trunks and necks; return how many files these have.

    Patients to validate on get one body each, unchanged.

    Args:
        labels: cache of :func:`patients.labelled`.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = [
        *((patient, 0) for patient in listed if patient.validates and patient.region is not Region.LIMB),
        *(each for number in range(rounds) for each in _round(listed, number)),
    ]
    for made, (patient, number) in enumerate(wanted):
        path = path_of(out, patient, number)
        if not path.exists():
            rng = np.random.default_rng((number, int.from_bytes(path.name.encode()[-24:])))
            subject = body(labelled(patient, labels), rng, change=not patient.validates)
            write(path, x_rayed(subject, rng, validate=patient.validates))
        report(made + 1, len(wanted))
    return len(wanted)


def _round(listed: Sequence[Patient], number: int) -> Iterator[tuple[Patient, int]]:
    trained = [patient for patient in listed if not patient.validates]
    heads = [patient for patient in trained if patient.region is Region.HEAD]
    trunks = [patient for patient in trained if patient.region is Region.TRUNK]
    first = number * _HEADS
    chosen = [(heads[n % len(heads)], n // len(heads)) for n in range(first, first + min(_HEADS, len(heads)))]
    chosen += [(trunk, number * _BODIES + n) for trunk in trunks for n in range(_BODIES)]
    for index in np.random.default_rng(number).permutation(len(chosen)):
        yield chosen[index]


class Examples(IterableDataset[tuple[Tensor, Tensor]]):
    """Evidence and share of lung of bodies, without end, mirrored half the time."""

    def __init__(self, folder: Path, reader: ReaderNet, seed: int) -> None:
        super().__init__()
        self._folder, self._reader, self._seed = folder, reader, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        if worker:
            cv2.setNumThreads(1)  # the other cores train
            torch.set_num_threads(1)
        rng = np.random.default_rng((self._seed, worker.id if worker else 0))
        kept: list[tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]] = []
        while True:
            files = bodies(self._folder, TRAINS)
            seen = read(files[int(rng.integers(len(files)))])
            readings, poses = seen_by_chance(seen, self._reader, rng)
            made = _example(seen, [_misread(reading, rng) for reading in readings], poses)
            kept.append((made.evidence.astype(np.float16), made.lungs[None].astype(np.float16)))
            del kept[:-_KEPT]
            for _ in range(_REUSED):
                along_i = int(rng.choice([-1, 1]))
                shown, lungs = (part[..., ::along_i].astype(np.float32) for part in kept[int(rng.integers(len(kept)))])
                yield torch.from_numpy(shown), torch.from_numpy(lungs)


def _misread(reading: Reading, rng: np.random.Generator) -> Reading:
    """A reading as it might be of a patient whom the reader does not know, lungs included."""
    wrong = float(rng.uniform(0, 1))
    reading = misread(reading, wrong, rng)
    shape, gone = reading.lungs.shape, np.isnan(reading.lungs)
    likely, mm = np.nan_to_num(reading.lungs), np.nan_to_num(reading.lungs_mm)
    logit = np.log(np.clip(likely, 1e-4, 1) / np.clip(1 - likely, 1e-4, 1)) + 2 * wrong * smooth(shape, rng)
    mm = mm * np.exp(0.3 * wrong * smooth(shape, rng) + 0.15 * rng.normal())
    if rng.random() < _OVERLOOKED:
        patch = smooth(shape, rng)
        logit = logit - np.float32(rng.uniform(2, 10)) * (patch > np.quantile(patch, rng.uniform(0, 0.6)))
    if rng.random() < _INVENTED:
        patch = smooth(shape, rng)
        there = patch > np.quantile(patch, rng.uniform(0.8, 0.98))
        logit = np.where(there, logit + np.float32(rng.uniform(4, 12)), logit)
        mm = np.where(there & (mm == 0), np.float32(rng.uniform(5, 80)), mm)
    likely = 1 / (1 + np.exp(-logit))
    mm = np.where(likely > 0.5, np.maximum(mm, 1.0), 0)
    lungs, lungs_mm = (np.where(gone, np.nan, part).astype(np.float32) for part in (likely, mm))
    return replace(reading, lungs=lungs, lungs_mm=lungs_mm)


def _example(seen: Seen, readings: Sequence[Reading], poses: Sequence[Matrix]) -> Example:
    if seen.lungs is None:
        raise ConfigError("the rendered bodies hold no lungs; render them anew")
    grid = Grid(seen.grid.size // 2, 2 * seen.grid.spacing_mm, seen.grid.center_mm)
    occupancy = lifted(readings, poses, grid, threads=1)
    made = evidence(occupancy, readings, poses, grid, 1)
    size = made.shape[1]
    coarse = seen.lungs.astype(np.float32).reshape(grid.size, 2, grid.size, 2, grid.size, 2).mean(axis=(1, 3, 5)) / 255
    true, lift_alone = np.zeros((2, size, size, size), np.float32)
    true[: grid.size, : grid.size, : grid.size] = coarse
    lift_alone[: grid.size, : grid.size, : grid.size] = solid(occupancy)
    return Example(made, lift_alone, true)


def train(
    folder: Path,
    reader: Path,
    out: Path,
    pace: Pace = PACE,
    run: Run = RUN,
) -> int:
    """Train on the bodies of a folder, or resume from the checkpoint in ``out``; return the total number of steps.

    Args:
        folder: written by :func:`render_chests`.
        reader: a checkpoint of :mod:`reading`, or the folder of an exported reader.
        out: folder for checkpoint, losses and scores.
        run: on what, from where, and how long.

    Raises:
        ConfigError: there are no bodies, or no such model.
    """
    if not bodies(folder, TRAINS):
        raise ConfigError(f"{folder}: holds no rendered bodies to train on")
    learner = Learner(LungNet, files_in(out), pace, run, LUNG_GRAPHS)
    learner.network.to(memory_format=torch.channels_last_3d)  # an eighth faster
    trained_reader = load_reader(reader)
    unseen = _to_validate(folder, trained_reader)

    def loss_of(
        network: LungNet, examples: tuple[Tensor, Tensor], halved: torch.autocast
    ) -> tuple[Tensor, dict[str, float]]:
        shown, lungs = (part.to(run.device) for part in examples)
        with halved:
            logit = network(shown)
        return objective(logit.float(), lungs, weight_of(shown[:, SEEN : SEEN + 1]))

    batches = batches_of(Examples(folder, trained_reader, learner.seed), run, 4)
    return learner.learn(batches, loss_of, lambda network: score(network, unseen, run.device))


def files_in(out: Path) -> Files:
    """Files of a training in a folder."""
    return Files(out / CHECKPOINT_FILE, out / "lung_losses.jsonl", out / "lung_scores.jsonl")


def _to_validate(folder: Path, reader: ReaderNet) -> dict[str, list[Example]]:
    """Bodies to validate on, read and lifted, by region and number of views."""
    found: dict[str, list[Example]] = {}
    for region, seen, readings in read_to_validate(folder, reader, _HEADS_SCORED, _has_lungs):
        for views in VIEWS_SCORED:
            example = _example(seen, readings[:views], list(seen.poses[:views]))
            found.setdefault(f"{region.value}_{views}", []).append(example)
    return found


def _has_lungs(seen: Seen) -> bool:
    return seen.lungs is not None and seen.lungs.sum() / 255 * seen.grid.spacing_mm**3 >= 1000 * _LEAST_CM3


def score(network: LungNet, unseen: dict[str, list[Example]], device: str = "cpu") -> dict[str, Score]:
    """Score the lift alone and what was found against the truth, by region and number of views."""
    network.eval()
    scores = {}
    for name, examples in unseen.items():
        found = []
        for example in examples:
            with torch.no_grad():
                logit = network(torch.from_numpy(example.evidence)[None].to(device))[0, 0].float().cpu().numpy()
            found.append((example.lifted > 0.5, logit > 0, example.lungs > 0.5))
        scores[name] = Score(*compared(found))
    network.train()
    return scores
