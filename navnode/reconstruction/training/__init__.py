"""Training of the learned reconstruction; needs the extra ``train``."""

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
    """What a training of the learned reconstruction came to."""

    model: str
    """The folder of the exported model."""
    steps: int
    """In all, those of earlier runs included."""
    sigma_factor: float | UnsetType = UNSET
    """By which intervals were widened, where there were CTs to validate on."""


class ReaderReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a training of the reader came to."""

    checkpoint: str
    steps: int
    bodies: int
    """Rendered, in all."""
    scores: dict[str, Score]
    """The newest, by region."""


class RefinerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a training of the refiner came to."""

    model: str
    """The folder of the exported model."""
    steps: int
    bodies: int
    """Rendered, in all."""
    scores: dict[str, RefinedScore]
    """The newest, by region and number of views."""


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
    """Train into a folder, or go on from what is there, export the model, and make its intervals hold on the CTs named
    by ``validate``; what ``navnode train`` does.

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
        raise ConfigError("there are CTs to validate on, but no folder of CTs")
    real, validating = real_sources(ct, hold_out, validate) if ct is not None else ([], [])
    drawn = [procedural_source(seed, out / "bodies") for seed in range(procedural)]
    if not real and not drawn:
        raise ConfigError("nothing to train on: --ct names no CTs, and --procedural is 0")
    # Patients of a folder are worth as much as each other, all of them together `real_share`.
    share = real_share if drawn else 1.0
    weights = [share / len(real)] * len(real) + [(1 - share if real else 1.0) / max(len(drawn), 1)] * len(drawn)
    smoothed: list[float] = []

    def told(step: int, values: dict[str, float]) -> None:
        smoothed[:] = [0.99 * smoothed[0] + 0.01 * values["loss"] if smoothed else values["loss"]]
        report(step, smoothed[0])

    made = train(
        real + drawn,
        out,
        Recipe(steps=steps),
        weights=weights,
        threads=threads or default_threads(),
        until=seconds_from_now(3600 * hours),
        report=told,
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
    """Render what is missing below ``out``, then train the reader; what ``navnode train-reader`` does.

    Args:
        ct: a folder of CTs as :func:`patients.patients` reads it.
        bones: a folder of bone surfaces as :func:`posed.knee` reads it; knees are made of them.
        hours: of training, after rendering.
        rounds: how many bodies to render of every patient; see :func:`radiographs.render_all`.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: the extra is missing, or there is nothing to train on, or no such device.
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
    """Render bodies that are missing below ``out``, train the refiner on what the reader there reads of them, and
    export it.

    Args:
        ct, bones, device: as for :func:`run_reader`.
        out: where :func:`run_reader` left its checkpoint.
        hours: of training, after rendering.
        rounds: how many bodies to render; see :func:`bodies.render_bodies`.

    Raises:
        ConfigError: the extra is missing, or there is no trained reader, nothing to train on, or no such device.
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
        raise ConfigError(f"{reader}: no trained reader; `navnode train-reader` makes one")
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
    """What a card says of a training."""
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
            raise ConfigError(f"--device {device}: no NVIDIA GPU that PyTorch can use answers here")
