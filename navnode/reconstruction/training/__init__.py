"""Trains the networks of the learned reconstruction; needs the extra ``train``."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from navnode.errors import ConfigError

if TYPE_CHECKING:  # the extra may be missing
    from navnode.reconstruction.training.learner import Run
    from navnode.reconstruction.training.lungs import Score as LungScore
    from navnode.reconstruction.training.reading import Score
    from navnode.reconstruction.training.refining import Score as RefinedScore

_TO_EXPORT = ("torch", "onnx", "onnxscript")
_NEEDED = (*_TO_EXPORT, "openvino", "matplotlib")


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


class LungReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of training the network that finds lungs."""

    model: str
    """Folder of the exported model."""
    steps: int
    bodies: int
    """Rendered in total."""
    scores: dict[str, LungScore]
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
    _check_extra(_NEEDED)
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
    weights = [share / max(len(real), 1)] * len(real) + [(1 - share if real else 1.0) / max(len(drawn), 1)] * len(drawn)
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


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """What the reader and the refiner learn from."""

    ct: Path | None = None
    """Folder of CTs, laid out as for :func:`patients.patients`."""
    bones: Path | None = None
    """Folder of bone surfaces, laid out as for :func:`posed.knee`, to make knees of."""
    rounds: int = 1
    """How many bodies to render of every patient; see :func:`radiographs.render_all`."""
    pack: Path | None = None
    """Rendered data from another machine, instead of the above; see :mod:`packs`."""


def run_reader(
    data: Data,
    out: Path,
    *,
    start: Path | None = None,
    hours: float,
    device: str,
    threads: int,
    progress: Callable[[float], None] = lambda share: None,
) -> ReaderReport:
    """Render what is missing below ``out``, then train the reader. This is ``navnode train-reader``.

    Args:
        start: an exported reader to go on from if there is no checkpoint below ``out``.
        hours: time to train, after rendering.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: the extra or the device is missing, or there is nothing to train on.
    """
    _check_extra(_TO_EXPORT, device)
    from navnode.reconstruction.training import reading
    from navnode.reconstruction.training.export import export_reader
    from navnode.reconstruction.training.learner import last_scores
    from navnode.reconstruction.training.patients import patients
    from navnode.reconstruction.training.posed import render_knees
    from navnode.reconstruction.training.radiographs import render_all

    xrays, files = out / "xrays", reading.files_in(out)

    def render(ct: Path) -> None:
        render_all(patients(ct), xrays, data.rounds, lambda made, of: progress(0.5 * made / of))
        if data.bones is not None:
            render_knees(data.bones, xrays, data.rounds)

    rank, device = _prepared(data, out, device, render, progress)
    steps = reading.train(
        xrays,
        out,
        run=_run(device, threads, start, hours, lambda share: progress(0.5 + 0.5 * share)),
    )
    scores = last_scores(files.scores, reading.Score)
    metrics = {
        region: {name: value for name, value in vars(score).items() if value is not None}
        for region, score in scores.items()
    }
    facts = _facts(steps, xrays)
    if not rank:
        export_reader(files.checkpoint, out / "reader_model", facts, metrics)
    return ReaderReport(checkpoint=str(files.checkpoint), steps=steps, bodies=facts["bodies"], scores=scores)


def run_refiner(
    data: Data,
    out: Path,
    *,
    reader: Path | None = None,
    start: Path | None = None,
    hours: float,
    device: str,
    threads: int,
    progress: Callable[[float], None] = lambda share: None,
) -> RefinerReport:
    """Render missing bodies below ``out``, train the refiner on what a reader reads in them, and export it. This is
    ``navnode train-refiner``.

    Args:
        reader: an exported reader; default: the checkpoint that :func:`run_reader` left in ``out``.
        start: an exported refiner to go on from if there is no checkpoint below ``out``.
        hours: time to train, after rendering.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: the extra, the device or a trained reader is missing, or there is nothing to train on.
    """
    _check_extra(_TO_EXPORT, device)
    from navnode.reconstruction.training import reading, refining
    from navnode.reconstruction.training.bodies import render_bodies
    from navnode.reconstruction.training.export import export_refiner
    from navnode.reconstruction.training.learner import last_scores
    from navnode.reconstruction.training.patients import patients

    reads, folder, files = reader or reading.files_in(out).checkpoint, out / "bodies3d", refining.files_in(out)
    if not reads.exists():
        raise ConfigError(f"{reads}: no trained reader; run `navnode train-reader` first, or name one with --reader")

    def render(ct: Path) -> None:
        listed, labels = patients(ct), out / "xrays" / "labels"
        render_bodies(listed, labels, data.bones, folder, data.rounds, lambda made, of: progress(0.2 * made / of))

    rank, device = _prepared(data, out, device, render, progress)
    steps = refining.train(
        folder,
        reads,
        out,
        run=_run(device, threads, start, hours, lambda share: progress(0.2 + 0.8 * share)),
    )
    scores = last_scores(files.scores, refining.Score)
    metrics = {
        name: {"lifted_dice": score.lifted, "refined_dice": score.refined, "refined_dice_least": score.refined_least}
        for name, score in scores.items()
    }
    model, facts = out / "refiner_model", _facts(steps, folder)
    if not rank:
        export_refiner(files.checkpoint, model, facts, metrics)
    return RefinerReport(model=str(model), steps=steps, bodies=facts["bodies"], scores=scores)


def run_lungs(
    ct: Path,
    out: Path,
    *,
    rounds: int,
    reader: Path | None = None,
    start: Path | None = None,
    hours: float,
    device: str,
    threads: int,
    progress: Callable[[float], None] = lambda share: None,
) -> LungReport:
    """Render missing chests below ``out``, train the network that finds lungs on what a reader reads in them, and
    export it. This is ``navnode train-lungs``.

    Args:
        ct: folder of CTs, laid out as for :func:`patients.patients`.
        rounds: how many bodies to render of every patient; see :func:`lungs.render_chests`.
        reader: an exported reader; default: the shipped one.
        start: an exported model to go on from if there is no checkpoint below ``out``.
        hours: time to train, after rendering.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: the extra, the device or the reader is missing, or there is nothing to train on.
    """
    _check_extra(_TO_EXPORT, device)
    from navnode.reconstruction.models import SHIPPED_READER
    from navnode.reconstruction.training import lungs
    from navnode.reconstruction.training.export import export_lungs
    from navnode.reconstruction.training.learner import last_scores
    from navnode.reconstruction.training.patients import patients

    folder, files = out / "chests", lungs.files_in(out)

    def render(cts: Path) -> None:
        listed, labels = patients(cts, with_contrast=True), out / "xrays" / "labels"
        lungs.render_chests(listed, labels, folder, rounds, lambda made, of: progress(0.4 * made / of))

    rank, device = _prepared(Data(ct=ct), out, device, render, progress)
    steps = lungs.train(
        folder,
        reader or SHIPPED_READER,
        out,
        run=_run(device, threads, start, hours, lambda share: progress(0.4 + 0.6 * share)),
    )
    scores = last_scores(files.scores, lungs.Score)
    metrics = {
        name: {"lifted_dice": score.lifted, "found_dice": score.found, "found_dice_least": score.found_least}
        for name, score in scores.items()
    }
    model, facts = out / "lung_model", _facts(steps, folder)
    if not rank:
        export_lungs(files.checkpoint, model, facts, metrics)
    return LungReport(model=str(model), steps=steps, bodies=facts["bodies"], scores=scores)


def _prepared(
    data: Data, out: Path, device: str, render: Callable[[Path], None], progress: Callable[[float], None]
) -> tuple[int, str]:
    """Unpack or render the data; this process's rank, and its device. The first process prepares them for all."""
    from navnode.reconstruction.training.learner import joined, wait_for_all
    from navnode.reconstruction.training.packs import unpack

    rank, _, device = joined(device)
    if rank == 0 and data.pack is not None:
        unpack(data.pack, out, lambda share: progress(0.1 * share))
    elif rank == 0 and data.ct is not None:
        render(data.ct)
    elif rank == 0:
        raise ConfigError("nothing to train on: name a folder of CTs (--ct) or a pack (--pack)")
    wait_for_all()
    return rank, device


def _run(device: str, threads: int, start: Path | None, hours: float, progress: Callable[[float], None]) -> Run:
    """A run that ends so many hours after this call.

    Args:
        threads: of the CPU; 0: as many as suit it.
    """
    from navnode.projector.native import default_threads
    from navnode.reconstruction.training.learner import Run

    began_s = time.monotonic()

    def passed() -> float:
        return (time.monotonic() - began_s) / (3600 * hours)

    return Run(
        device=device,
        threads=threads or default_threads(),
        start=start,
        until=lambda: passed() >= 1,
        report=lambda step, loss: progress(min(1.0, passed())),
    )


def _facts(steps: int, folder: Path) -> dict[str, Any]:
    """What a card states about a training on the files of a folder."""
    from navnode.reconstruction.training.patients import TRAINS, VALIDATES, patient_of, region_of

    trained, validated = (sorted(folder.glob(f"*{ending}")) for ending in (TRAINS, VALIDATES))
    regions = Counter(region_of(path).value for path in {patient_of(path): path for path in trained}.values())
    return {
        "steps": steps,
        "bodies": len(trained) + len(validated),
        "data": [f"{count} {region}" for region, count in sorted(regions.items())],
        "held_out": sorted({patient_of(path) for path in validated}),
    }


def _check_extra(needed: Sequence[str], device: str = "cpu") -> None:
    """Raise ConfigError if packages or the device are missing."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {', '.join(missing)}; try: pip install 'navnode[train]'")
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(f"--device {device}: PyTorch finds no NVIDIA GPU that it can use")
