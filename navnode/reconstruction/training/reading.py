"""Trains the reader: on rendered X-rays, degraded as by an X-ray chain, with the bone and lung behind their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional
from torch.utils.data import IterableDataset, get_worker_info

from navnode.errors import ConfigError
from navnode.expansion import load_arrays
from navnode.reconstruction.network import ReaderNet
from navnode.reconstruction.reader import (
    BONE_KINDS,
    BONE_SCALE_MM,
    CHANNELS,
    LOG_SCALES,
    LUNG_SCALE_MM,
    OUTLINE_MM,
    OUTPUTS,
    reading_channels,
)
from navnode.reconstruction.training.examples import Exposure
from navnode.reconstruction.training.exported import READER_GRAPHS
from navnode.reconstruction.training.learner import RUN, Files, Learner, Pace, Run, batches_of
from navnode.reconstruction.training.patients import TRAINS, VALIDATES, Region, region_of
from navnode.types import CArm, FloatArray

__all__ = ["CHECKPOINT_FILE", "Examples", "PACE", "Score", "files_in", "objective", "score", "train", "worse"]

CHECKPOINT_FILE = "reader.pt"
PACE = Pace()
_LISTED_EVERY = 64
"""Examples between looks at the folder, to which X-rays may still be added."""


@dataclass(frozen=True)
class Score:
    """How well X-rays of patients not trained on are read; None where they show no such tissue.

    ``bone_dice`` and ``lung_dice`` are Dice coefficients, 0..1.
    """

    bone_error_mm: float | None
    """Mean absolute error of the thickness of bone, where there is bone; median over X-rays."""
    bone_dice: float | None
    """Of the outline; median over X-rays."""
    lung_dice: float | None
    kinds_right: float | None = None
    """Share of the thickness of bone that is read as bone of its true kind, 0..1; median over X-rays."""


class Examples(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Channels (4, H, W), truth in mm (2 + K, H, W), and 1 where measured (1, H, W), without end.

    The truth is bone, lung, and bone of each of ``reader.BONE_KINDS``; the latter is 0 where kinds are unknown.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__()
        self._folder, self._seed = folder, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng((self._seed, worker.id if worker else 0))
        made, files = 0, list[Path]()
        while True:
            if made % _LISTED_EVERY == 0:
                files = sorted(self._folder.glob(f"*{TRAINS}"))
            made += 1
            path = files[int(rng.integers(len(files)))]
            with load_arrays(path) as file:
                n = int(rng.integers(len(file["pixel_mm"])))
                line, bone, lungs = (file[name][n].astype(np.float32) for name in ("line", "bone", "lungs"))
                pixel_mm = float(file["pixel_mm"][n])
                shares = _shares(path, file["kinds"][n] if "kinds" in file else None, line.shape)
            line, measured = worse(line, pixel_mm, rng)
            channels = reading_channels(line, measured, pixel_mm)
            truth = np.stack([bone, lungs, *(shares * bone)])
            parts = np.concatenate([channels, truth, measured[None].astype(np.float32)])
            if rng.random() < 0.5:
                parts = parts[..., ::-1]
            parts = np.ascontiguousarray(np.rot90(parts, int(rng.choice(4, p=(0.6, 0.1, 0.2, 0.1))), (1, 2)))
            whole = torch.from_numpy(parts)
            yield whole[:CHANNELS], whole[CHANNELS:-1], whole[-1:]


def _shares(path: Path, kept: npt.NDArray[np.uint8] | None, shape: tuple[int, ...]) -> FloatArray:
    """Share of each kind of bone in an X-ray of a file, (K, H, W); 0 if unknown."""
    if kept is not None:
        return kept.astype(np.float32) / np.float32(255)
    shares = np.zeros((len(BONE_KINDS), *shape), np.float32)
    if region_of(path) is Region.HEAD:
        shares[BONE_KINDS.index("other")] = 1
    return shares


def worse(line: FloatArray, pixel_mm: float, rng: np.random.Generator) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Line integrals as an X-ray chain measures true ones, (H, W), and which pixels are valid, (H, W).

    They get noise, scatter and hardening from :class:`Exposure`, and a detector or intensifier smaller than the canvas.
    Some keep only grey values of 8 bits, with an unknown gamma and a saturated open beam; a few show metal.
    """
    height, width = line.shape
    if rng.random() < 0.15:
        line = line + _metal(line.shape, rng)
    middle_px = (width - 1) / 2
    spacing_mm = 1.5 * pixel_mm
    carm = CArm(width, height, (spacing_mm,) * 2, 1000.0, (middle_px, middle_px))
    seen = Exposure.drawn(rng).seen(line, carm, rng)
    measured = np.ones(line.shape, bool)
    if rng.random() < 0.25:
        seen = (seen * rng.uniform(0.5, 1.5) + rng.normal(0, 0.25)).astype(np.float32)
        grey = np.round(255 * np.exp(-np.clip(seen, 0, 5.5) * rng.uniform(0.4, 1.0)))
        seen = -np.log(np.maximum(grey, 1) / 255).astype(np.float32)
        measured &= grey < 255
    if rng.random() < 0.75:
        measured &= _field(line.shape, rng)
    return seen, measured


def _field(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A detector's rectangle or an intensifier's circle, somewhere near the middle."""
    v, u = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    half = np.array(shape) * rng.uniform(0.28, 0.5, 2)
    middle = np.array(shape) / 2 + rng.uniform(-1, 1, 2) * (np.array(shape) / 2 - half)
    if rng.random() < 0.3:
        return np.asarray(np.hypot(v - middle[0], u - middle[1]) < half.max())
    return np.asarray((np.abs(v - middle[0]) < half[0]) & (np.abs(u - middle[1]) < half[1]))


def _metal(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Cables, wires, beads and tools: line integrals of a few strokes."""
    drawn = np.zeros(shape, np.float32)
    for _ in range(rng.integers(1, 4)):
        stroke = np.zeros(shape, np.float32)
        points = rng.uniform(0, shape[0], (int(rng.integers(1, 4)) + 1, 2)).astype(np.int32)
        if rng.random() < 0.3:
            cv2.circle(stroke, points[0].tolist(), int(rng.integers(1, 8)), 1.0, -1, cv2.LINE_AA)
        else:
            cv2.polylines(stroke, [points], False, 1.0, int(rng.choice([1, 2, 3, 8])), cv2.LINE_AA)
        drawn += stroke * np.float32(rng.uniform(0.2, 4))
    return drawn


def train(
    folder: Path,
    out: Path,
    pace: Pace = PACE,
    run: Run = RUN,
) -> int:
    """Train the reader on the X-rays of a folder, or resume from the checkpoint in ``out``; return the total number of
    steps.

    Args:
        folder: written by :func:`radiographs.render_all`.
        out: folder for checkpoint, losses and scores.
        run: on what, from where, and how long.

    Raises:
        ConfigError: there are no X-rays, or no such model.
    """
    if next(folder.glob(f"*{TRAINS}"), None) is None:
        raise ConfigError(f"{folder}: holds no rendered X-rays to train on")
    learner = Learner(_channels_last, files_in(out), pace, run, READER_GRAPHS)

    def loss_of(
        network: ReaderNet, example: tuple[Tensor, Tensor, Tensor], halved: torch.autocast
    ) -> tuple[Tensor, dict[str, float]]:
        channels, truth_mm, counts = example
        pictures = channels.to(run.device, memory_format=torch.channels_last)
        with halved:
            output = network(pictures)
        return objective(output.float(), truth_mm.to(run.device), counts.to(run.device))

    batches = batches_of(Examples(folder, learner.seed), run, 8)
    return learner.learn(batches, loss_of, lambda network: score(network, folder, run.device))


def _channels_last() -> ReaderNet:
    network = ReaderNet()
    network.to(memory_format=torch.channels_last)
    return network


def files_in(out: Path) -> Files:
    """Files of a training of the reader in a folder."""
    return Files(out / CHECKPOINT_FILE, out / "reader_losses.jsonl", out / "reader_scores.jsonl")


def objective(output: Tensor, truth_mm: Tensor, counts: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss of thickness (smooth L1), its stated scale (Laplace), outlines (cross-entropy, and Dice for bone), and kinds
    of bone (cross-entropy, by thickness).

    Args:
        output: (N, OUTPUTS, H, W).
        truth_mm: (N, 2 + K, H, W), as in :class:`Examples`.
        counts: (N, 1, H, W), 1 where a pixel was measured.
    """
    weight = counts / counts.sum().clamp(min=1)
    bone_mm, lungs_mm, kinds_mm = truth_mm[:, :1], truth_mm[:, 1:2], truth_mm[:, 2:]
    is_bone, is_lung = (bone_mm > OUTLINE_MM).float(), (lungs_mm > OUTLINE_MM).float()
    heavier = weight * (1 + 3 * is_bone)
    target = bone_mm / BONE_SCALE_MM
    thickness = (heavier * functional.smooth_l1_loss(output[:, :1], target, reduction="none", beta=0.1)).sum()
    error = (output[:, :1].detach() - target).abs()
    scale = output[:, 2:3].clamp(*LOG_SCALES)
    stated = (heavier * (error * torch.exp(-scale) + scale)).sum()
    entropy = (weight * functional.binary_cross_entropy_with_logits(output[:, 1:2], is_bone, reduction="none")).sum()
    likely = torch.sigmoid(output[:, 1:2])
    dice = 1 - (2 * (counts * likely * is_bone).sum() + 1) / ((counts * (likely + is_bone)).sum() + 1)
    lungs = (
        weight * functional.smooth_l1_loss(output[:, 3:4], lungs_mm / LUNG_SCALE_MM, reduction="none", beta=0.1)
    ).sum()
    lung = (weight * functional.binary_cross_entropy_with_logits(output[:, 4:5], is_lung, reduction="none")).sum()
    # A thin bone in front of a thick one counts, too.
    amount = counts * (kinds_mm / BONE_SCALE_MM).sqrt()
    kinds = -(amount * functional.log_softmax(output[:, 5:], 1)).sum() / amount.sum().clamp(min=1)
    loss = thickness + 0.05 * stated + 0.5 * entropy + 0.25 * dice + lungs + 0.3 * lung + 0.5 * kinds
    parts = {
        "loss": loss,
        "thickness": thickness,
        "stated": stated,
        "entropy": entropy,
        "dice": dice,
        "lungs": lungs + lung,
        "kinds": kinds,
    }
    return loss, {name: float(part.detach()) for name, part in parts.items()}


def score(network: ReaderNet, folder: Path, device: str = "cpu") -> dict[str, Score]:
    """Score readings of AP and lateral X-rays of the validation patients, by region."""
    with torch.no_grad():
        return _scored(network, folder, device)


def _scored(network: ReaderNet, folder: Path, device: str) -> dict[str, Score]:
    network.eval()
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for number, path in enumerate(sorted(folder.glob(f"*{VALIDATES}"))):
        rng = np.random.default_rng(number)
        group = region_of(path).value
        with load_arrays(path) as file:
            kept = file["kinds"] if "kinds" in file else [None] * len(file["line"])
            parts = zip(file["line"], file["bone"], file["lungs"], file["pixel_mm"], kept, strict=True)
            for line, bone, lungs, pixel_mm, kinds in parts:
                width = line.shape[1]
                carm = CArm(width, len(line), (1.5 * float(pixel_mm),) * 2, 1000.0, ((width - 1) / 2,) * 2)
                seen = Exposure.drawn(rng).seen(line.astype(np.float32), carm, rng)
                channels = reading_channels(seen, np.ones(line.shape, bool), float(pixel_mm))
                output = network(torch.from_numpy(channels)[None].to(device))[0].float().cpu().numpy()
                assert len(output) == OUTPUTS
                is_bone = bone > OUTLINE_MM
                error_mm = np.abs(np.maximum(output[0], 0) * BONE_SCALE_MM - bone)[is_bone]
                shares = _shares(path, kinds, line.shape) * bone.astype(np.float32)
                right = np.minimum(shares, softmax(output[5:], axis=0) * bone).sum() / max(float(shares.sum()), 1e-3)
                found.setdefault(group, []).append(
                    (
                        float(error_mm.mean()),
                        _dice(output[1] > 0, is_bone),
                        _dice(output[4] > 0, lungs > OUTLINE_MM),
                        float(right) if shares.any() else float("nan"),
                    )
                )
    network.train()
    return {group: Score(*(_median(values) for values in zip(*rows, strict=True))) for group, rows in found.items()}


def _median(values: Sequence[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return round(float(np.median(known)), 4) if known else None


def _dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """NaN if both are empty."""
    total = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / total if total else float("nan")
