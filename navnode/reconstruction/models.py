"""A model's files: its graphs, what each of them takes and gives, and its card.

A model is a folder with graphs, some of them in FP16, too (for TensorRT), and ``card.json``, which lists the files'
SHA-256. Files that the card does not list, and graphs that keep weights in other files, are refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from navnode.errors import ComputeError, ConfigError
from navnode.types import Array, FloatArray

__all__ = [
    "CARD_FILE",
    "Card",
    "FEATURES_FILE",
    "GIVES",
    "Gives",
    "HALF",
    "LUNGS_FILE",
    "READER_FILE",
    "REFINER_FILE",
    "Run",
    "SHIPPED",
    "SHIPPED_LUNGS",
    "SHIPPED_READER",
    "SHIPPED_REFINER",
    "VIEW_FILE",
    "VOLUME_FILE",
    "answering",
    "card_hash",
    "checked",
    "read_card",
    "verify",
    "write_card",
]

VIEW_FILE, VOLUME_FILE, CARD_FILE = "view.onnx", "volume.onnx", "card.json"
HALF = {VIEW_FILE: "view.fp16.onnx", VOLUME_FILE: "volume.fp16.onnx"}
SHIPPED = Path(__file__).parent / "model"
READER_FILE = "reader.onnx"
SHIPPED_READER = Path(__file__).parent / "reader_model"
FEATURES_FILE, REFINER_FILE = "features.onnx", "refiner.onnx"
SHIPPED_REFINER = Path(__file__).parent / "refiner_model"
LUNGS_FILE = "lungs.onnx"
SHIPPED_LUNGS = Path(__file__).parent / "lung_model"

_LARGEST_BYTES = 64 * 2**20
_EXTERNAL_DATA = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
"""Start of ONNX's entry for a tensor stored in another file (onnx.proto, TensorProto.external_data): tag and length may
be written longer than they need be."""
_LARGEST_VALUE = 1e6
"""HU / 1000, millimetres, logits and features stay far below."""

Run = Callable[[Mapping[str, Array]], list[FloatArray]]
"""Inputs by name -> outputs in the graph's order; shapes as in :mod:`network`."""


class Gives(NamedTuple):
    """What a graph gives: one array (1, channels, ...)."""

    channels: int
    along: str
    """The input whose sides it has."""
    side: int = 0
    """The length of its three sides where it has no input's."""


GIVES = {
    VIEW_FILE: Gives(33, "", 64),
    VOLUME_FILE: Gives(3, "fine"),
    READER_FILE: Gives(11, "pictures"),
    FEATURES_FILE: Gives(8, "pictures"),
    REFINER_FILE: Gives(1, "fine"),
    LUNGS_FILE: Gives(1, "evidence"),
}
"""By the graph's file."""


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model states about itself; ``card.json``.

    ``bone_threshold`` is a probability, 0..1; ``sigma_factor`` and ``bone_density`` are unitless.
    """

    schema: Literal["navnode/model/1"]
    name: str
    sha256: dict[str, str]
    """File name -> hash."""
    training: dict[str, str | int | float | list[str]]
    """Data, held-out patients, steps."""
    licence: str = ""
    metrics: dict[str, dict[str, float]] = {}
    """From patients that the training did not use."""
    limits: list[str] = []
    preferred: bool = False
    """Whether it beats SART on such patients in every respect, so that ``auto`` uses it."""
    bone_density: float = 0.0
    """No longer used; models before 0.4 derived bone from the volume."""
    bone_threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    """Probability of bone at which its surface is most accurate on validation patients."""
    sigma_factor: Annotated[float, msgspec.Meta(ge=0.01, le=100)] = 1.0
    """Factor on the stated scale that makes 95 % intervals hold on validation patients."""


def verify(folder: Path, file: str) -> None:
    """Check a model's file now that is loaded only when it is needed.

    Raises:
        ConfigError: the model is missing, or the file is not the card's.
    """
    checked(folder / file, read_card(folder))


def read_card(folder: Path) -> Card:
    """The card of a model folder.

    Raises:
        ConfigError: there is no card, or it is not valid.
    """
    try:
        return msgspec.json.decode((folder / CARD_FILE).read_bytes(), type=Card)
    except OSError as error:
        raise ConfigError(f"{folder}: no model ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder / CARD_FILE}: {error}") from error


def card_hash(folder: Path = SHIPPED) -> str:
    """SHA-256 of a model's card.

    Raises:
        ConfigError: there is no card.
    """
    try:
        return hashlib.sha256((folder / CARD_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{folder}: no model ({error.strerror})") from error


def write_card(folder: Path, card: Card) -> None:
    """Write or replace the card of a model folder.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        (folder / CARD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError(f"{folder / CARD_FILE}: cannot be written ({error.strerror})") from error


def checked(path: Path, card: Card) -> bytes:
    """A graph that matches the card's hash and holds its own weights: engines get the bytes alone.

    Raises:
        ConfigError: it cannot be read, is too large, is not the card's, or keeps weights elsewhere.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError(f"{path}: larger than {_LARGEST_BYTES >> 20} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != card.sha256.get(path.name):
        raise ConfigError(f"{path}: refused, does not match the hash in {CARD_FILE}")
    if _EXTERNAL_DATA.search(content):
        raise ConfigError(f"{path}: refused, keeps weights in other files, which {CARD_FILE} does not list")
    return content


def answering(run: Run, path: Path) -> Run:
    """A graph that says so where it is not what its file's name says, or answers with nonsense.

    Args:
        run: inputs and outputs as the engine has them.

    Raises:
        ComputeError: from the function that is returned: the engine refuses the inputs, outputs are others than
            ``GIVES`` says, or are not finite or absurd.
    """
    full = {half: file for file, half in HALF.items()}.get(path.name, path.name)
    gives = GIVES[full]

    def answer(inputs: Mapping[str, Array]) -> list[FloatArray]:
        try:
            outputs = run(inputs)
        except Exception as error:  # engines raise exceptions without a common base class
            first = str(error).strip().splitlines()[0]
            raise ComputeError(f"{path}: the graph cannot be run ({first})") from error
        sides = inputs[gives.along].shape[2:] if gives.along else (gives.side,) * 3
        expected = (1, gives.channels, *sides)
        if len(outputs) != 1 or outputs[0].shape != expected:
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise ComputeError(f"{path}: the graph gives {shapes}, not {expected}: it is not of this kind")
        if not (outputs[0].min() > -_LARGEST_VALUE and outputs[0].max() < _LARGEST_VALUE):  # or NaN
            raise ComputeError(f"{path}: the graph's outputs are not finite or absurd")
        return outputs

    return answer
