"""Weights of exported models: where training goes on from on a machine that has no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import onnx
import torch
from torch import Tensor, nn

from navnode.errors import ConfigError
from navnode.reconstruction.models import FEATURES_FILE, LUNGS_FILE, READER_FILE, REFINER_FILE, read_card

__all__ = ["LUNG_GRAPHS", "READER_GRAPHS", "REFINER_GRAPHS", "Start", "start_of"]

READER_GRAPHS: Mapping[str, str] = {"": READER_FILE}
LUNG_GRAPHS: Mapping[str, str] = {"": LUNGS_FILE}
REFINER_GRAPHS: Mapping[str, str] = {"pictures.": FEATURES_FILE, "volume.": REFINER_FILE}
"""The part of a network that each graph of a model holds, by the prefix of its weights' names."""


class Start(msgspec.Struct, frozen=True):
    """Weights to go on from."""

    weights: dict[str, Tensor]
    """By name, of any shape; in half precision when they were exported."""
    steps: int
    """Steps that they were trained for."""

    def given_to(self, network: nn.Module) -> None:
        """Load the weights into a network.

        Raises:
            ConfigError: they are those of another network.
        """
        wanted = network.state_dict()
        missing = [
            name for name in wanted if name not in self.weights or self.weights[name].shape != wanted[name].shape
        ]
        if missing:
            raise ConfigError(f"the model is of another network: {missing[0]} is missing, or has another shape")
        network.load_state_dict({name: self.weights[name] for name in wanted})


def start_of(folder: Path, graphs: Mapping[str, str]) -> Start:
    """The weights of an exported model.

    Args:
        folder: the model.
        graphs: ``READER_GRAPHS``, ``REFINER_GRAPHS`` or ``LUNG_GRAPHS``.

    Raises:
        ConfigError: the model is missing or damaged.
    """
    steps = read_card(folder).training.get("steps", 0)
    weights = {}
    for prefix, file in graphs.items():
        try:
            graph = onnx.load(str(folder / file)).graph
        except Exception as error:  # protobuf's own kinds
            raise ConfigError(f"{folder / file}: cannot be read ({error})") from error
        for weight in graph.initializer:
            values = onnx.numpy_helper.to_array(weight)
            name = prefix + weight.name.removesuffix("_half")
            weights[name] = torch.from_numpy(values.astype("float32" if values.dtype.kind == "f" else values.dtype))
    return Start(weights, steps if isinstance(steps, int) else 0)
