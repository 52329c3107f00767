"""What runs the networks: OpenVINO, or ONNX Runtime where that is missing.

A model is a folder with ``view.onnx``, ``volume.onnx`` and ``card.json``, which names both files' SHA-256. Nothing is
run that the card does not name, or that keeps weights in other files.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from navnode.errors import ConfigError
from navnode.types import Array, FloatArray

VIEW_FILE, VOLUME_FILE, CARD_FILE = "view.onnx", "volume.onnx", "card.json"
SHIPPED = Path(__file__).parent / "model"

EngineName = Literal["openvino", "onnxruntime"]
_PACKAGES: dict[EngineName, str] = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
TITLES: dict[EngineName, str] = {"openvino": "OpenVINO fp32", "onnxruntime": "ONNX Runtime fp32"}
_LARGEST_BYTES = 64 * 2**20

Run = Callable[[Mapping[str, Array]], list[FloatArray]]
"""Inputs by name -> outputs in the graph's order."""


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a model; ``card.json``."""

    schema: Literal["navnode/model/1"]
    name: str
    sha256: dict[str, str]
    """File name -> hash."""
    training: dict[str, str | int | float | list[str]]
    """Data, held-out patients, steps."""
    licence: str = ""
    metrics: dict[str, dict[str, float]] = {}
    """On patients that were not trained on."""
    limits: list[str] = []
    sigma_factor: float = 1.0
    """The stated scale times this makes 95 % intervals hold on validation patients."""


@dataclass(frozen=True)
class Networks:
    """Both graphs, ready to run."""

    engine: str
    """For people: ``OpenVINO fp32``."""
    card: Card
    view: Run
    volume: Run


def available() -> list[EngineName]:
    """Engines that are installed, best first."""
    return [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package) is not None]


def load(folder: Path = SHIPPED, *, engine: EngineName | None = None, threads: int = 0) -> Networks:
    """The networks of a model folder.

    Args:
        engine: default: the best that is installed.
        threads: 0: all cores.

    Raises:
        ConfigError: no such model or engine, or files that the card does not name.
    """
    card, installed = read_card(folder), available()
    chosen = engine or (installed[0] if installed else None)
    if chosen is None or chosen not in installed:
        raise ConfigError(f"no inference engine: {chosen or 'openvino'} is not installed; try: pip install openvino")
    compiled = {name: _COMPILERS[chosen](_checked(folder / name, card), threads) for name in (VIEW_FILE, VOLUME_FILE)}
    return Networks(TITLES[chosen], card, compiled[VIEW_FILE], compiled[VOLUME_FILE])


def would_load() -> EngineName | None:
    """The engine that would run the shipped model, None where there is no model or no engine at all."""
    installed = available()
    return installed[0] if SHIPPED.exists() and installed else None


def read_card(folder: Path) -> Card:
    """The card of a model folder.

    Raises:
        ConfigError: there is none, or it is not a card.
    """
    try:
        return msgspec.json.decode((folder / CARD_FILE).read_bytes(), type=Card)
    except OSError as error:
        raise ConfigError(f"{folder}: no model ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder / CARD_FILE}: {error}") from error


def _checked(path: Path, card: Card) -> bytes:
    """A graph whose hash the card names; with its weights inside, as it is handed on as bytes."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError(f"{path}: larger than {_LARGEST_BYTES >> 20} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != card.sha256.get(path.name):
        raise ConfigError(f"{path}: not the file that {CARD_FILE} names; it is not run")
    return content


def _openvino(model: bytes, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    settings: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
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


_COMPILERS: dict[EngineName, Callable[[bytes, int], Run]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}
