"""Trains the refiner: on bodies that a trained reader reads, then lifted, and their true solid bone.

The reader knows the patients that it was trained on, and reads them better than others: readings are degraded before
the lift (:func:`misread`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional
from torch.utils.data import IterableDataset, get_worker_info

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.reconstruction.lift import lift, solid
from navnode.reconstruction.network import ReaderNet, Refinement
from navnode.reconstruction.reader import reading_channels
from navnode.reconstruction.reading import Reading, by_kind, understood
from navnode.reconstruction.refining import SEEN, Evidence, evidence
from navnode.reconstruction.training.bodies import ANGLES_DEG, Seen, read
from navnode.reconstruction.training.examples import Exposure
from navnode.reconstruction.training.exported import READER_GRAPHS, REFINER_GRAPHS, start_of
from navnode.reconstruction.training.learner import RUN, Files, Learner, Pace, Run, averaged_weights, batches_of
from navnode.reconstruction.training.patients import TRAINS, VALIDATES, Region, region_of
from navnode.reconstruction.training.reading import worse
from navnode.types import CArm, FloatArray, Matrix, View

__all__ = [
    "CHECKPOINT_FILE",
    "CROP",
    "Crop",
    "Example",
    "Examples",
    "PACE",
    "Score",
    "VIEWS_SCORED",
    "bodies",
    "compared",
    "dice",
    "disturbed",
    "exposed",
    "files_in",
    "lifted",
    "load_reader",
    "misread",
    "objective",
    "read_by",
    "read_to_validate",
    "score",
    "seen_by_chance",
    "smooth",
    "to_validate",
    "train",
    "weight_of",
    "weights",
]

CHECKPOINT_FILE = "refiner.pt"
PACE = Pace(warm_up=100, averaging=0.998, score_every=400, save_every=200)
CROP = 96
"""Voxels along each side of the crops in a step."""
_KEPT = 24
"""Bodies that each worker keeps ready."""
_REUSED = 10
"""Crops cut per new body: lifting takes longer than learning."""
_VIEW_SUBSETS: tuple[tuple[float, tuple[int, ...]], ...] = (
    (0.42, (0, 1)),
    (0.08, (2, 3)),
    (0.05, (0, 2)),
    (0.10, (0, 1, 2)),
    (0.05, (0, 1, 3)),
    (0.30, (0, 1, 2, 3)),
)
"""How often an example has which views of ``bodies.ANGLES_DEG``."""
_HEADS_SCORED = 4
VIEWS_SCORED = (2, 4)
"""Numbers of views that networks are scored with."""


Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """Dice coefficients of solid bone in patients not trained on, 0..1.

    ``lifted`` and ``refined`` are medians over bodies before and after refinement, ``refined_least`` is the least.
    """

    lifted: float
    refined: float
    refined_least: float


@dataclass(frozen=True)
class Example:
    """One body, read and lifted, on its grid, (k, j, i)."""

    evidence: Evidence
    lifted: Mask
    """(k, j, i), bone by the lift alone."""
    bone: FloatArray
    """(k, j, i), share of bone in every voxel."""


@dataclass(frozen=True)
class _Halved:
    """An example in half precision, to cut crops from."""

    fine: npt.NDArray[np.float16]
    coarse: npt.NDArray[np.float16]
    bone: npt.NDArray[np.float16]
    pictures: npt.NDArray[np.float16]
    pixels_from_coarse: Matrix

    @classmethod
    def of(cls, example: Example) -> _Halved:
        """Halve an example; missing views get empty pictures, so that crops make batches."""
        given = example.evidence
        missing = len(ANGLES_DEG) - len(given.pictures)
        return cls(
            given.fine.astype(np.float16),
            given.coarse.astype(np.float16),
            example.bone.astype(np.float16),
            np.pad(given.pictures, [(0, missing), *[(0, 0)] * 3]).astype(np.float16),
            np.pad(given.pixels_from_coarse, [(0, missing), (0, 0), (0, 0)]),
        )

    def cut(self, crop: int, rng: np.random.Generator) -> Crop:
        """A random crop, ``crop`` voxels along each side, mirrored half the time."""
        half = crop // 2
        first = [int(rng.integers(size - half + 1)) for size in self.coarse.shape[1:]]
        finely = tuple(slice(2 * start, 2 * start + crop) for start in first)
        coarsely = tuple(slice(start, start + half) for start in first)
        parts = [self.fine[:, *finely], self.coarse[:, *coarsely], self.pictures, self.bone[None, *finely]]
        pixels = self.pixels_from_coarse.copy()
        pixels[..., 3] += pixels[..., :3] @ np.array(first[::-1])
        if rng.random() < 0.5:  # mirror left and right, in space and in the pictures
            parts = [part[..., ::-1] for part in parts]
            pixels[..., 3] += pixels[..., 0] * (half - 1)
            pixels[..., 0] *= -1
            pixels[:, 0] = (self.pictures.shape[-1] - 1) * pixels[:, 2] - pixels[:, 0]
        fine, coarse, pictures, bone = (torch.from_numpy(part.astype(np.float32)) for part in parts)
        return fine, coarse, pictures, torch.from_numpy(pixels.astype(np.float32)), bone


Crop = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Fine and coarse evidence, pictures, projections of coarse voxels into them, and the share of bone (1, c, c, c)."""


class Examples(IterableDataset[Crop]):
    """Random crops of bodies, without end."""

    def __init__(self, folder: Path, reader: ReaderNet, crop: int, seed: int) -> None:
        super().__init__()
        self._folder, self._reader, self._crop, self._seed = folder, reader, crop, seed

    def __iter__(self) -> Iterator[Crop]:
        worker = get_worker_info()
        if worker:
            cv2.setNumThreads(1)  # the other cores train
        rng = np.random.default_rng((self._seed, worker.id if worker else 0))
        kept: list[_Halved] = []
        while True:
            files = bodies(self._folder, TRAINS)
            made = disturbed(read(files[int(rng.integers(len(files)))]), self._reader, rng)
            kept.append(_Halved.of(made))
            del kept[:-_KEPT]
            for _ in range(_REUSED):
                yield kept[int(rng.integers(len(kept)))].cut(self._crop, rng)


def bodies(folder: Path, ending: str) -> list[Path]:
    """Files of bodies, complete ones only, in order."""
    return sorted(path for path in folder.glob(f"*{ending}") if not path.name.startswith("."))


def disturbed(seen: Seen, reader: ReaderNet, rng: np.random.Generator) -> Example:
    """A body from some of its views, as it may be seen and read of a patient whom the reader does not know."""
    readings, poses = seen_by_chance(seen, reader, rng)
    wrong = float(rng.uniform(0, 1))
    return lifted(seen, [misread(reading, wrong, rng) for reading in readings], poses)


def seen_by_chance(seen: Seen, reader: ReaderNet, rng: np.random.Generator) -> tuple[list[Reading], list[Matrix]]:
    """Readings of some of a body's views, and their poses, (4, 4), with the errors of an X-ray chain and of poses."""
    shares = np.array([share for share, _ in _VIEW_SUBSETS])
    chosen = list(_VIEW_SUBSETS[int(rng.choice(len(_VIEW_SUBSETS), p=shares / shares.sum()))][1])
    exposure = Exposure.drawn(rng)
    bad, off = rng.random() < 0.35, rng.random() < 0.5
    readings, poses = list[Reading](), list[Matrix]()
    for n in chosen:
        line, pixel_mm = seen.line[n].astype(np.float32), float(seen.pixel_mm[n])
        if bad:
            line, measured = worse(line, pixel_mm, rng)
        else:
            line, measured = exposed(line, pixel_mm, exposure, rng), np.ones(line.shape, bool)
        readings.append(read_by(reader, line, measured, seen.carms[n], pixel_mm))
        moved = g.exp(np.concatenate([rng.normal(0, 0.006, 3), rng.normal(0, 0.7, 3)]), np.zeros(3))
        poses.append(moved @ seen.poses[n] if off else seen.poses[n])
    return readings, poses


def exposed(line: FloatArray, pixel_mm: float, exposure: Exposure, rng: np.random.Generator) -> FloatArray:
    """Line integrals of a canvas, (H, W), as an X-ray chain measures true ones."""
    height, width = line.shape
    carm = CArm(width, height, (1.5 * pixel_mm,) * 2, 1000.0, ((width - 1) / 2, (height - 1) / 2))
    return exposure.seen(line, carm, rng)


def read_by(
    reader: ReaderNet, line: FloatArray, measured: npt.NDArray[np.bool_], carm: CArm, pixel_mm: float
) -> Reading:
    """Read a canvas of line integrals, (H, W), with a reader network.

    Args:
        measured: (H, W), where they are valid.
        pixel_mm: pixel size at the patient.
    """
    with torch.no_grad():
        output = reader(torch.from_numpy(reading_channels(line, measured, pixel_mm))[None])[0].float().numpy()
    return understood(output, line, measured, carm, pixel_mm)


def misread(reading: Reading, wrong: float, rng: np.random.Generator) -> Reading:
    """A reading as it might be of a patient whom the reader does not know.

    Args:
        wrong: how far off, unitless, 0..1.
    """
    shape = reading.bone.shape
    bone, bone_mm = np.nan_to_num(reading.bone), np.nan_to_num(reading.bone_mm)
    factor = np.exp(0.25 * wrong * rng.uniform(0.3, 1) * smooth(shape, rng))
    logit = np.log(np.clip(bone, 1e-4, 1 - 1e-4) / np.clip(1 - bone, 1e-4, 1))
    logit = logit + 1.5 * wrong * smooth(shape, rng)
    sigma_px = wrong * float(rng.uniform(0, 2))
    if sigma_px > 0.3:
        logit = cv2.GaussianBlur(logit.astype(np.float32), (0, 0), sigma_px)
    if rng.random() < 0.5 * wrong:
        blob = np.zeros(shape, np.float32)
        middle = rng.integers(0, shape[0], 2).tolist()
        axes = rng.integers(4, 28, 2).tolist()
        cv2.ellipse(blob, middle, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
        blob = cv2.GaussianBlur(blob, (0, 0), 2.5)
        missed = blob * np.float32(rng.uniform(2, 8))
        logit, factor = logit - missed, factor * (1 - blob * np.float32(rng.uniform(0.2, 0.9)))
    likely = 1 / (1 + np.exp(-logit))
    # Bone newly seen at a border gets the least thickness that counts as bone.
    mm = np.where(likely > 0.5, np.maximum(bone_mm * factor, 1.0), 0)
    doubted = np.log(np.nan_to_num(reading.kinds) + 1e-3)
    doubted = softmax(doubted + 2 * wrong * np.stack([smooth(shape, rng) for _ in doubted]), axis=0)
    gone = np.isnan(reading.bone)
    return replace(
        reading,
        bone=np.where(gone, np.nan, likely).astype(np.float32),
        bone_mm=np.where(gone, np.nan, mm).astype(np.float32),
        kinds=np.where(gone, np.nan, doubted).astype(np.float32),
    )


def smooth(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """A smooth random picture of a shape, (H, W), of about unit size."""
    knots = int(rng.integers(3, 9))
    coarse = rng.standard_normal((knots, knots)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def lifted(seen: Seen, readings: Sequence[Reading], poses: Sequence[Matrix]) -> Example:
    """Lift a body from its readings, whose views have these ``volume_from_carm``."""
    views = [View(reading.bone_mm, reading.carm, pose) for reading, pose in zip(readings, poses, strict=True)]
    occupancy = lift(views, seen.grid, kinds=by_kind(readings, poses), threads=1)
    made = evidence(occupancy, readings, poses, seen.grid, threads=1)
    return Example(made, np.asarray(solid(occupancy), bool), (seen.bone / np.float32(255)).astype(np.float32))


def train(
    folder: Path,
    reader: Path,
    out: Path,
    pace: Pace = PACE,
    run: Run = RUN,
    crop: int = CROP,
) -> int:
    """Train the refiner on the bodies of a folder, or resume from the checkpoint in ``out``; return the total number of
    steps.

    Args:
        folder: written by :func:`bodies.render_bodies`.
        reader: a checkpoint of :mod:`reading`, or the folder of an exported reader.
        out: folder for checkpoint, losses and scores.
        crop: voxels along each side, a multiple of ``refining.BLOCK``.
        run: on what, from where, and how long.

    Raises:
        ConfigError: there are no bodies, or no such model.
    """
    if not bodies(folder, TRAINS):
        raise ConfigError(f"{folder}: holds no rendered bodies to train on")
    learner = Learner(Refinement, files_in(out), pace, run, REFINER_GRAPHS)
    learner.network.volume.to(memory_format=torch.channels_last_3d)  # an eighth faster
    trained_reader = load_reader(reader)
    unseen = to_validate(folder, trained_reader)

    def loss_of(network: Refinement, crops: Crop, halved: torch.autocast) -> tuple[Tensor, dict[str, float]]:
        fine, coarse, pictures, pixels, bone = (part.to(run.device) for part in crops)
        with halved:
            logit = network(fine, coarse, pictures, pixels)
        return objective(logit.float(), bone, weights(coarse))

    batches = batches_of(Examples(folder, trained_reader, crop, learner.seed), run, 2)
    return learner.learn(batches, loss_of, lambda network: score(network, unseen, run.device))


def files_in(out: Path) -> Files:
    """Files of a training of the refiner in a folder."""
    return Files(out / CHECKPOINT_FILE, out / "refiner_losses.jsonl", out / "refiner_scores.jsonl")


def load_reader(trained: Path) -> ReaderNet:
    """The averaged reader of a checkpoint, or the reader of an exported model's folder, ready to read.

    Raises:
        ConfigError: the model is missing or damaged.
    """
    network = ReaderNet()
    if trained.is_dir():
        start_of(trained, READER_GRAPHS).given_to(network)
    else:
        network.load_state_dict(averaged_weights(trained))
    network.eval()
    return network


def weights(coarse: Tensor) -> Tensor:
    """How much every voxel counts, (N, 1, s, s, s), by its coarse evidence; see :func:`weight_of`."""
    return functional.interpolate(weight_of(coarse[:, SEEN : SEEN + 1]), scale_factor=2.0, mode="nearest")


def weight_of(seen: Tensor) -> Tensor:
    """How much a voxel counts: little where at most one of three or four views sees it, or none of two.

    Args:
        seen: (N, 1, s, s, s), share of views that see it.
    """
    return 0.2 + 0.8 * (seen > 0.45).float()


def objective(logit: Tensor, bone: Tensor, counts: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss: cross-entropy, and Dice per body.

    Args:
        logit, bone, counts: (N, 1, s, s, s); the share of bone, and how much a voxel counts.
    """
    entropy = (counts * functional.binary_cross_entropy_with_logits(logit, bone, reduction="none")).sum() / counts.sum()
    likely = torch.sigmoid(logit)
    axes = (1, 2, 3, 4)
    # A crop with hardly any bone weighs little.
    shared, both = (counts * likely * bone).sum(axes), (counts * (likely + bone)).sum(axes)
    dice = 1 - ((2 * shared + 200) / (both + 200)).mean()
    loss = 4 * entropy + dice
    return loss, {name: float(part.detach()) for name, part in (("loss", loss), ("entropy", entropy), ("dice", dice))}


def to_validate(folder: Path, reader: ReaderNet) -> dict[str, list[Example]]:
    """Bodies to validate on, read and lifted, by region and number of views."""
    found: dict[str, list[Example]] = {}
    for region, seen, readings in read_to_validate(folder, reader, _HEADS_SCORED):
        for views in VIEWS_SCORED:
            example = lifted(seen, readings[:views], list(seen.poses[:views]))
            found.setdefault(f"{region.value}_{views}", []).append(example)
    return found


def read_to_validate(
    folder: Path, reader: ReaderNet, heads: int, wanted: Callable[[Seen], bool] = lambda seen: True
) -> Iterator[tuple[Region, Seen, list[Reading]]]:
    """Bodies to validate on, and what a reader reads in all their views.

    Args:
        heads: the first so many heads.
        wanted: whether a body is one to validate on.
    """
    for number, path in enumerate(bodies(folder, VALIDATES)):
        region, rng = region_of(path), np.random.default_rng(number)
        if region is Region.HEAD and not heads:
            continue
        seen = read(path)
        if not wanted(seen):
            continue
        heads -= region is Region.HEAD
        exposure = Exposure.drawn(rng)
        readings = []
        for line, carm, pixel_mm in zip(seen.line, seen.carms, seen.pixel_mm, strict=True):
            shown = exposed(line.astype(np.float32), float(pixel_mm), exposure, rng)
            readings.append(read_by(reader, shown, np.ones(shown.shape, bool), carm, float(pixel_mm)))
        yield region, seen, readings


def score(network: Refinement, unseen: dict[str, list[Example]], device: str = "cpu") -> dict[str, Score]:
    """Score the lift alone and the refined bone against the truth, by region and number of views."""
    network.eval()
    scores = {}
    for name, examples in unseen.items():
        found = []
        for example in examples:
            shown = example.evidence
            parts = (shown.fine, shown.coarse, shown.pictures, shown.pixels_from_coarse.astype(np.float32))
            given = (torch.from_numpy(part)[None].to(device) for part in parts)
            with torch.no_grad():
                refined = network(*given)[0, 0].float().cpu().numpy() > 0
            found.append((example.lifted, refined, example.bone > 0.5))
        scores[name] = Score(*compared(found))
    network.train()
    return scores


def compared(found: Sequence[tuple[Mask, Mask, Mask]]) -> tuple[float, float, float]:
    """Dice coefficients of masks, (k, j, i), before and after a network, and the truth: medians, and the least after.

    Args:
        found: of every body, ``(before, after, true)``.
    """
    before, after = ([dice(masks[n], masks[2]) for masks in found] for n in (0, 1))
    medians = (float(np.median(before)), float(np.median(after)))
    return round(medians[0], 4), round(medians[1], 4), round(min(after), 4)


def dice(one: Mask, other: Mask) -> float:
    """Dice coefficient of two masks, (k, j, i), 0..1; 1 if both are empty."""
    total = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
