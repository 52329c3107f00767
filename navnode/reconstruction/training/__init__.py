"""Trains the networks of the learned reconstruction; needs the extra ``train``."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from navnode.errors import ConfigError

if TYPE_CHECKING:  # the extra may be missing
    from navnode.reconstruction.training.patients import Patient
    from navnode.reconstruction.training.reading import Score
    from navnode.reconstruction.training.refining import Score as RefinedScore

_NEEDED = ("torch", "onnx", "onnxscript", "openvino", "matplotlib")


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of training the learned reconstruction."""

    model: str
    """Folder of the exported model."""
    steps: int
    """In total, earlier runs included."""
    sigma_factor: float | UnsetType = UNSET
    """Factor by which intervals were widened; only with CTs to validate on."""


class ReaderReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of training the reader."""

    checkpoint: str
    steps: int
    bodies: int
    """Rendered in total."""
    scores: dict[str, Score]
    """The latest, by region."""


class RefinerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of training the refiner."""

    model: str
    """Folder of the exported model."""
    steps: int
    bodies: int
    """Rendered in total."""
    scores: dict[str, RefinedScore]
    """The latest, by region and number of views."""


def run(
    out: Path,
    ct: Path | None,
    hold_out: Sequence[str],
    validate: Sequence[str] = (),
    *,
    steps: int,
    hours: float,
    procedural: int,
    real_share: float,
    threads: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> TrainingReport:
    """Train into a folder, or resume the training there; export the model, and calibrate its intervals on the CTs named
    by ``validate``. This is ``navnode train``.

    Raises:
        ConfigError: the extra is missing, or there is nothing to train on.
    """
    _check_extra()
    from navnode.projector.native import default_threads
    from navnode.reconstruction.training import curves
    from navnode.reconstruction.training.calibrate import calibrate
    from navnode.reconstruction.training.examples import procedural_source, real_sources
    from navnode.reconstruction.training.export import export, load_checkpoint, new_card
    from navnode.reconstruction.training.train import CHECKPOINT_FILE, LOSSES_FILE, Recipe, seconds_from_now, train

    if validate and ct is None:
        raise ConfigError("--validate needs a folder of CTs; give --ct")
    real, validating = real_sources(ct, hold_out, validate) if ct is not None else ([], [])
    drawn = [procedural_source(seed, out / "bodies") for seed in range(procedural)]
    if not real and not drawn:
        raise ConfigError("nothing to train on: --ct holds no CTs, and --procedural is 0")
    # Patients of a folder weigh the same, and `real_share` together.
    share = real_share if drawn else 1.0
    weights = [share / len(real)] * len(real) + [(1 - share if real else 1.0) / max(len(drawn), 1)] * len(drawn)
    smoothed: list[float] = []

    def on_step(step: int, values: dict[str, float]) -> None:
        smoothed[:] = [0.99 * smoothed[0] + 0.01 * values["loss"] if smoothed else values["loss"]]
        report(step, smoothed[0])

    made = train(
        real + drawn,
        out,
        Recipe(steps=steps),
        weights=weights,
        threads=threads or default_threads(),
        until=seconds_from_now(3600 * hours),
        report=on_step,
    )
    curves.draw(out / LOSSES_FILE, out / "curves.png")
    model = out / "model"
    export(load_checkpoint(out / CHECKPOINT_FILE), model)
    facts: dict[str, str | int | float | list[str]] = {
        "cts": [body.name for body in real],
        "held_out": list(hold_out),
        "validated": [body.name for body in validating],
        "procedural_bodies": len(drawn),
        "steps": made,
    }
    new_card(model, out.name, facts)
    factor: float | UnsetType = UNSET
    if validating:
        factor = calibrate(model, validating, threads=threads or None)
    return TrainingReport(model=str(model), steps=made, sigma_factor=factor)


def run_reader(
    ct: Path,
    out: Path,
    *,
    bones: Path | None = None,
    hours: float,
    rounds: int,
    device: str,
    threads: int,
    progress: Callable[[float], None] = lambda share: None,
) -> ReaderReport:
    """Render what is missing below ``out``, then train the reader. This is ``navnode train-reader``.

    Args:
        ct: folder of CTs, laid out as for :func:`patients.patients`.
        bones: folder of bone surfaces, laid out as for :func:`posed.knee`, to build knees from.
        hours: time to train, after rendering.
        rounds: how many bodies to render of every patient; see :func:`radiographs.render_all`.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: the extra or the device is missing, or there is nothing to train on.
    """
    _check_extra(device)
    from navnode.projector.native import default_threads
    from navnode.reconstruction.training import reading
    from navnode.reconstruction.training.export import export_reader
    from navnode.reconstruction.training.learner import last_scores
    from navnode.reconstruction.training.patients import patients
    from navnode.reconstruction.training.posed import render_knees
    from navnode.reconstruction.training.radiographs import render_all

    xrays, files = out / "xrays", reading.files_in(out)
    listed = patients(ct)
    bodies = render_all(listed, xrays, rounds, lambda made, of: progress(0.5 * made / of))
    if bones is not None:
        bodies += render_knees(bones, xrays, rounds)
    passed = _passed(hours)
    steps = reading.train(
        xrays,
        out,
        device=device,
        threads=threads or default_threads(),
        until=lambda: passed() >= 1,
        report=lambda step, loss: progress(0.5 + 0.5 * min(1.0, passed())),
    )
    scores = last_scores(files.scores, reading.Score)
    metrics = {
        region: {name: value for name, value in vars(score).items() if value is not None}
        for region, score in scores.items()
    }
    export_reader(files.checkpoint, out / "reader_model", _facts(steps, bodies, listed), metrics)
    return ReaderReport(checkpoint=str(files.checkpoint), steps=steps, bodies=bodies, scores=scores)


def run_refiner(
    ct: Path,
    out: Path,
    *,
    bones: Path | None = None,
    hours: float,
    rounds: int,
    device: str,
    threads: int,
    progress: Callable[[float], None] = lambda share: None,
) -> RefinerReport:
    """Render missing bodies below ``out``, train the refiner on what the reader there reads in them, and export it.
    This is ``navnode train-refiner``.

    Args:
        ct, bones, device: as for :func:`run_reader`.
        out: where :func:`run_reader` left its checkpoint.
        hours: time to train, after rendering.
        rounds: how many bodies to render; see :func:`bodies.render_bodies`.

    Raises:
        ConfigError: the extra, the device or a trained reader is missing, or there is nothing to train on.
    """
    _check_extra(device)
    from navnode.projector.native import default_threads
    from navnode.reconstruction.training import reading, refining
    from navnode.reconstruction.training.bodies import render_bodies
    from navnode.reconstruction.training.export import export_refiner
    from navnode.reconstruction.training.learner import last_scores
    from navnode.reconstruction.training.patients import patients

    reader, folder, files = reading.files_in(out).checkpoint, out / "bodies3d", refining.files_in(out)
    if not reader.exists():
        raise ConfigError(f"{reader}: no trained reader; run `navnode train-reader` first")
    listed = patients(ct)
    bodies = render_bodies(
        listed, out / "xrays" / "labels", bones, folder, rounds, lambda made, of: progress(0.2 * made / of)
    )
    passed = _passed(hours)
    steps = refining.train(
        folder,
        reader,
        out,
        device=device,
        threads=threads or default_threads(),
        until=lambda: passed() >= 1,
        report=lambda step, loss: progress(0.2 + 0.8 * min(1.0, passed())),
    )
    scores = last_scores(files.scores, refining.Score)
    metrics = {
        name: {"lifted_dice": score.lifted, "refined_dice": score.refined, "refined_dice_least": score.refined_least}
        for name, score in scores.items()
    }
    model = out / "refiner_model"
    export_refiner(files.checkpoint, model, _facts(steps, bodies, listed), metrics)
    return RefinerReport(model=str(model), steps=steps, bodies=bodies, scores=scores)


def _passed(hours: float) -> Callable[[], float]:
    """Share of the hours that has passed since this call."""
    began = time.monotonic()
    return lambda: (time.monotonic() - began) / (3600 * hours)


def _facts(steps: int, bodies: int, listed: Sequence[Patient]) -> dict[str, str | int | float | list[str]]:
    """What a card states about a training."""
    regions = Counter(patient.region.value for patient in listed if not patient.validates)
    return {
        "steps": steps,
        "bodies": bodies,
        "data": [f"CTs of {count} {region}" for region, count in regions.items()],
        "held_out": [patient.name for patient in listed if patient.validates],
    }


def _check_extra(device: str = "cpu") -> None:
    """Raise ConfigError if packages or the device are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {', '.join(missing)}; try: pip install 'navnode[train]'")
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(f"--device {device}: PyTorch finds no NVIDIA GPU that it can use")
