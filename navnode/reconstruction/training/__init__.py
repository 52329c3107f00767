"""Training of the learned reconstruction; needs the extra ``train``."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from navnode.errors import ConfigError

if TYPE_CHECKING:  # the extra may be missing
    from navnode.reconstruction.training.reading import Score
    from navnode.reconstruction.training.refining import Score as RefinedScore

_DRAWN_TO_VALIDATE = 4
"""Bodies; for what is bone, as validation patients are few."""
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
        unseen = [
            procedural_source(seed, out / "bodies")
            for seed in range(procedural, procedural + min(procedural, _DRAWN_TO_VALIDATE))
        ]
        factor = calibrate(model, validating, unseen, threads=threads or None)
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
    _check_extra()
    import torch

    from navnode.projector.native import default_threads
    from navnode.reconstruction.training import reading
    from navnode.reconstruction.training.export import export_reader
    from navnode.reconstruction.training.patients import patients
    from navnode.reconstruction.training.posed import render_knees
    from navnode.reconstruction.training.radiographs import render_all

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no NVIDIA GPU that PyTorch can use answers here")
    xrays = out / "xrays"
    files = render_all(patients(ct), xrays, rounds, lambda made, of: progress(0.5 * made / of))
    if bones is not None:
        files += render_knees(bones, xrays, rounds)
    began, seconds = time.monotonic(), 3600 * hours

    def passed() -> float:
        return (time.monotonic() - began) / seconds

    steps = reading.train(
        xrays,
        out,
        device=device,
        threads=threads or default_threads(),
        until=lambda: passed() >= 1,
        report=lambda step, loss: progress(0.5 + 0.5 * min(1.0, passed())),
    )
    export_reader(out / reading.CHECKPOINT_FILE, out / "reader_model", {"steps": steps, "bodies": files})
    scores = reading.last_scores(out)
    return ReaderReport(checkpoint=str(out / reading.CHECKPOINT_FILE), steps=steps, bodies=files, scores=scores)


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
    _check_extra()
    import torch

    from navnode.projector.native import default_threads
    from navnode.reconstruction.training import reading, refining
    from navnode.reconstruction.training.bodies import render_bodies
    from navnode.reconstruction.training.export import export_refiner
    from navnode.reconstruction.training.patients import patients

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no NVIDIA GPU that PyTorch can use answers here")
    reader, folder = out / reading.CHECKPOINT_FILE, out / "bodies3d"
    if not reader.exists():
        raise ConfigError(f"{reader}: no trained reader; `navnode train-reader` makes one")
    listed = patients(ct)
    files = render_bodies(
        listed, out / "xrays" / "labels", bones, folder, rounds, lambda made, of: progress(0.2 * made / of)
    )
    began, seconds = time.monotonic(), 3600 * hours

    def passed() -> float:
        return (time.monotonic() - began) / seconds

    steps = refining.train(
        folder,
        reader,
        out,
        device=device,
        threads=threads or default_threads(),
        until=lambda: passed() >= 1,
        report=lambda step, loss: progress(0.2 + 0.8 * min(1.0, passed())),
    )
    scores = refining.last_scores(out)
    metrics = {
        name: {"lifted_dice": score.lifted, "refined_dice": score.refined, "refined_dice_least": score.refined_least}
        for name, score in scores.items()
    }
    model = out / "refiner_model"
    held_out = [patient.name for patient in listed if patient.validates]
    facts: dict[str, str | int | float | list[str]] = {"steps": steps, "bodies": files, "held_out": held_out}
    export_refiner(out / refining.CHECKPOINT_FILE, model, facts, metrics)
    return RefinerReport(model=str(model), steps=steps, bodies=files, scores=scores)


def _check_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {', '.join(missing)}; try: pip install 'navnode[train]'")
