"""Engines that run the networks: TensorRT where there is an NVIDIA GPU, else OpenVINO, else ONNX Runtime.

What a model's files are: :mod:`navnode.reconstruction.models`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from navnode import geometry as g
from navnode.clock import elapsed_ms
from navnode.errors import ComputeError, ConfigError, NavError
from navnode.files.cache import own_cache_folder
from navnode.projector import Projector
from navnode.projector.grids import AIR_HU
from navnode.reconstruction import tensorrt
from navnode.reconstruction.classical import Pyramid
from navnode.reconstruction.features import GRID, picture, starting_volumes
from navnode.reconstruction.models import (
    FEATURES_FILE,
    HALF,
    LUNGS_FILE,
    READER_FILE,
    REFINER_FILE,
    SHIPPED,
    SHIPPED_LUNGS,
    SHIPPED_READER,
    SHIPPED_REFINER,
    VIEW_FILE,
    VOLUME_FILE,
    Card,
    Run,
    answering,
    checked,
    read_card,
)
from navnode.types import Array, CArm, FloatArray, Grid, Matrix, View, Volume

__all__ = [
    "Compared",
    "Engine",
    "EngineName",
    "Networks",
    "available",
    "build",
    "check",
    "compare",
    "known",
    "load",
    "load_lungs",
    "load_reader",
    "load_refiner",
    "plans_folder",
    "preferred",
    "title",
    "would_load",
]

EngineName = Literal["tensorrt", "openvino", "onnxruntime"]
_PLAIN: tuple[EngineName, ...] = ("openvino", "onnxruntime")
"""Engines that compute in FP32 on every processor; other engines are compared with one of them before use."""
_TITLES: dict[EngineName, str] = {"tensorrt": "TensorRT", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
_MAX_ERROR_HU = 10.0
_MAX_DICE_CHANGE = 0.005
_BONE_HU = 200.0
_SPACING_MM = 2.0


@dataclass(frozen=True)
class Networks:
    """Both graphs, ready to run."""

    engine: str
    """For display: ``OpenVINO fp32``."""
    card: Card
    view: Run
    volume: Run


def title(engine: EngineName, card: Card | None = None) -> str:
    """An engine and the precision in which it runs a model (default: the shipped one), for display."""
    if card is None and SHIPPED.exists():
        card = read_card(SHIPPED)
    precision = "fp16" if card is not None and _file(VOLUME_FILE, engine, card) != VOLUME_FILE else "fp32"
    return f"{_TITLES[engine]} {precision}"


def _file(name: str, engine: EngineName, card: Card) -> str:
    """The file of a model that an engine uses."""
    half = engine not in _PLAIN and HALF[name] in card.sha256
    return HALF[name] if half else name


def available() -> list[EngineName]:
    """Engines that run here, best first."""
    usable: list[EngineName] = ["tensorrt"] if tensorrt.package() and tensorrt.device() else []
    return usable + [name for name in _PLAIN if _installed(name)]


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def load(folder: Path = SHIPPED, *, engine: EngineName | None = None, threads: int = 0) -> Networks:
    """The networks of a model folder.

    An engine that does not compute in plain FP32 is first compared with one that does.

    Args:
        engine: default: the best one available.
        threads: 0: all cores.

    Raises:
        ConfigError: the model or the engine is missing, a file is not the card's, or the engine computes wrongly.
    """
    card, usable = read_card(folder), available()
    chosen = engine or (usable[0] if usable else None)
    if chosen is None or chosen not in usable:
        raise ConfigError(f"no inference engine: {chosen or 'openvino'} does not run here; see `navnode engine list`")
    networks = _compiled(chosen, folder, card, threads)
    if chosen not in _PLAIN:
        reference = next((name for name in usable if name in _PLAIN), None)
        if reference is None:
            raise ConfigError(
                f"{networks.engine} needs OpenVINO or ONNX Runtime to check its results; neither runs here"
            )
        compared = compare(networks, _compiled(reference, folder, card, threads), repeats=0)
        if not compared.good:
            raise ConfigError(
                f"{networks.engine} is not used; its results differ from those of {title(reference, card)}: "
                f"{compared.max_error_hu:.1f} HU, bone Dice {1 - compared.dice_change:.4f}"
            )
    return networks


def load_reader(folder: Path = SHIPPED_READER, *, threads: int = 0, exactly: bool = False) -> tuple[Run, str]:
    """The graph that reads X-rays, and the name of its engine.

    Processors that compute in BF16 do so: it takes two thirds of the time, and changes the Dice of bone in none of
    twelve validation patients by more than 0.001 (docs/decisions/0046).

    Args:
        threads: 0: all cores.
        exactly: compute in FP32 on every processor.

    Raises:
        ConfigError: the model or an engine is missing, or the file is not the card's.
    """
    (run,), label = _load_halved(folder, [READER_FILE], threads, exactly)
    return run, label


def load_refiner(folder: Path = SHIPPED_REFINER, *, threads: int = 0, exactly: bool = False) -> tuple[Run, Run, str]:
    """The graphs that find features in views and refine lifted bone, and the name of their engine; like
    :func:`load_reader`.

    Raises:
        ConfigError: the model or an engine is missing, or a file is not the card's.
    """
    (find_features, refine), label = _load_halved(folder, [FEATURES_FILE, REFINER_FILE], threads, exactly)
    return find_features, refine, label


def load_lungs(folder: Path = SHIPPED_LUNGS, *, threads: int = 0, exactly: bool = False) -> tuple[Run, str]:
    """The graph that finds lungs in what was read of them, and the name of its engine; like :func:`load_reader`.

    Raises:
        ConfigError: the model or an engine is missing, or the file is not the card's.
    """
    (run,), label = _load_halved(folder, [LUNGS_FILE], threads, exactly)
    return run, label


def _load_halved(folder: Path, files: Sequence[str], threads: int, exactly: bool) -> tuple[list[Run], str]:
    card = read_card(folder)
    engine = next((name for name in _PLAIN if _installed(name)), None)
    if engine is None:
        raise ConfigError("no inference engine: openvino does not run here; see `navnode engine list`")
    compile_model, precision = _COMPILERS[engine], "fp32"
    if engine == "openvino" and not exactly and _computes_in_bf16():
        compile_model, precision = partial(_openvino, precision="bf16"), "bf16"
    label = f"{_TITLES[engine]} {precision}"
    return [_graph(compile_model, folder / file, card, threads, label) for file in files], label


@cache
def _computes_in_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _compiled(engine: EngineName, folder: Path, card: Card, threads: int) -> Networks:
    label = title(engine, card)
    view, volume = (
        _graph(_COMPILERS[engine], folder / _file(name, engine, card), card, threads, label)
        for name in (VIEW_FILE, VOLUME_FILE)
    )
    return Networks(label, card, view, volume)


def _graph(compile_model: Callable[[bytes, int], Run], path: Path, card: Card, threads: int, label: str) -> Run:
    content = checked(path, card)
    try:
        return answering(compile_model(content, threads), path)
    except NavError:
        raise
    except Exception as error:  # engines raise exceptions without a common base class
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"{path}: {label} cannot run it ({first})") from error


@dataclass(frozen=True)
class Compared:
    """Differences between two engines' volumes of the same X-rays, and the time one takes.

    ``dice_change`` is a fraction, 0..1.
    """

    max_error_hu: float
    dice_change: float
    """1 - Dice of the voxels above 200 HU."""
    view_ms: float
    volume_ms: float

    @property
    def good(self) -> bool:
        """Whether the differences are too small to see."""
        return self.max_error_hu <= _MAX_ERROR_HU and self.dice_change <= _MAX_DICE_CHANGE


def compare(networks: Networks, reference: Networks, repeats: int = 3) -> Compared:
    """Compare two engines on X-rays of a synthetic body, a shell of bone in a ball of tissue.

    Args:
        repeats: timed runs after a first, untimed one; 0: measure no times.
    """
    grid, views = _synthetic_views()
    pyramid = Pyramid(Grid(GRID, _SPACING_MM))
    for name, view in enumerate(views):
        pyramid.add(name, view)
    coarse, fine = starting_volumes(pyramid)
    outputs, times = [], []
    for each in (reference, networks):
        sums: list[FloatArray] = []
        for view in views:
            made = picture(view, grid)
            inputs = {"picture": made.channels[None], "picture_from_grid": made.picture_from_grid[None]}
            output, view_ms = _timed(each.view, inputs, repeats)
            sums = [a + b for a, b in zip(sums, output, strict=True)] if sums else output
        inputs = {
            "sums": sums[0],
            "coarse": coarse[None, None],
            "fine": fine[None, None],
            "views": np.array([len(views)], np.float32),
        }
        output, volume_ms = _timed(each.volume, inputs, repeats)
        outputs.append(1000 * output[0][0, 0])
        times.append((view_ms, volume_ms))
    bone = [hu > _BONE_HU for hu in outputs]
    total = int(bone[0].sum() + bone[1].sum())
    shared = 2 * int((bone[0] & bone[1]).sum())
    off = float(np.abs(outputs[1] - outputs[0]).max())
    return Compared(off, 1 - shared / total if total else 0.0, *times[1])


def _timed(run: Run, inputs: Mapping[str, Array], repeats: int) -> tuple[list[FloatArray], float]:
    """Outputs, and the median time of the runs after the first, ms."""
    output = run(inputs)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run(inputs)
        times.append(elapsed_ms(began))
    return output, round(float(np.median(times)), 1) if times else 0.0


def _synthetic_views() -> tuple[Matrix, list[View]]:
    """volume_from_grid, and two views of the synthetic body in it."""
    grid = Grid(GRID, _SPACING_MM).volume_from_index
    z, y, x = np.meshgrid(*[np.linspace(-127, 127, GRID)] * 3, indexing="ij", sparse=True)
    far = np.sqrt(x**2 + y**2 + (0.8 * z) ** 2)
    hu = np.select([far < 40, far < 50, far < 90], [60.0, 900.0, 20.0], AIR_HU).astype(np.float32)
    projector = Projector(Volume(hu, grid))
    carm = CArm(256, 256, (1.2, 1.2), 1000.0, (127.5, 127.5))
    poses = [g.pose_at(np.zeros(3), 650.0, orbital_deg=angle) for angle in (0.0, 90.0)]
    return grid, [View(projector.render(carm, pose), carm, pose) for pose in poses]


def would_load() -> EngineName | None:
    """The engine that would run the shipped model; None without a model or an engine."""
    usable = available()
    return usable[0] if SHIPPED.exists() and usable else None


def preferred() -> bool:
    """Whether the shipped model beats the classical methods and an engine runs it."""
    return would_load() is not None and read_card(SHIPPED).preferred


@dataclass(frozen=True)
class Engine:
    """An engine that navnode supports, and whether it runs here."""

    name: EngineName
    title: str
    version: str
    """'' if not installed."""
    runs: bool
    why_not: str


def known() -> list[Engine]:
    """All engines, best first."""
    usable = available()
    gpu_why = "no NVIDIA GPU with a working driver" if tensorrt.package() else "pip install tensorrt-rtx"
    engines = [Engine("tensorrt", title("tensorrt"), tensorrt.version(), "tensorrt" in usable, gpu_why)]
    for name in _PLAIN:
        version = importlib.metadata.version(name) if name in usable else ""
        engines.append(Engine(name, title(name), version, name in usable, f"pip install {name}"))
    return [replace(engine, why_not="" if engine.runs else engine.why_not) for engine in engines]


def check(folder: Path = SHIPPED, threads: int = 0) -> dict[EngineName, Compared]:
    """Compare every engine that runs here with the last of them, which computes in plain FP32.

    Raises:
        ConfigError: as :func:`load`, or the graphs are others.
    """
    card, usable = read_card(folder), available()
    if not usable:
        raise ConfigError("no inference engine runs here; try: pip install openvino")
    reference = _compiled(usable[-1], folder, card, threads)
    try:
        return {name: compare(_compiled(name, folder, card, threads), reference) for name in usable}
    except ComputeError as error:  # inputs or outputs are others
        raise ConfigError(str(error)) from error


def build(folder: Path = SHIPPED) -> dict[str, tuple[int, float, bool]]:
    """Build TensorRT's plans for a model: file -> bytes, seconds, and whether the plan was cached.

    Raises:
        ConfigError: TensorRT is missing or rejects a graph, or the plans cannot be stored.
    """
    card = read_card(folder)
    built = {}
    for name in (_file(VIEW_FILE, "tensorrt", card), _file(VOLUME_FILE, "tensorrt", card)):
        began = time.perf_counter()
        plan, was_there = tensorrt.cached(checked(folder / name, card), plans_folder())
        built[name] = (len(plan), round(time.perf_counter() - began, 2), was_there)
    return built


def _tensorrt(model: bytes, threads: int) -> Run:
    return tensorrt.Plan(tensorrt.cached(model, plans_folder())[0])


def plans_folder() -> Path:
    """The folder that caches TensorRT's plans."""
    return own_cache_folder("plans")


def _openvino(model: bytes, threads: int, precision: Literal["f32", "bf16"] = "f32") -> Run:
    import openvino

    core = openvino.Core()
    settings: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()

    def run(inputs: Mapping[str, Array]) -> list[FloatArray]:
        request.infer(dict(inputs), share_inputs=True)
        return [output.data.copy() for output in request.output_tensors]

    return run


def _onnxruntime(model: bytes, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Array]) -> list[FloatArray]:
        return list(session.run(None, dict(inputs)))

    return run


_COMPILERS: dict[EngineName, Callable[[bytes, int], Run]] = {
    "tensorrt": _tensorrt,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
