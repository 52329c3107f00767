"""Exports trained networks to ONNX, and writes their cards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from navnode.reconstruction import lungs, reader, refining
from navnode.reconstruction.features import CHANNELS, GRID, PICTURE_PX
from navnode.reconstruction.models import (
    FEATURES_FILE,
    HALF,
    LUNGS_FILE,
    READER_FILE,
    REFINER_FILE,
    VIEW_FILE,
    VOLUME_FILE,
    Card,
    write_card,
)
from navnode.reconstruction.network import SUMS, LungNet, ReaderNet, Refinement, halved
from navnode.reconstruction.training.learner import averaged_weights
from navnode.reconstruction.training.train import Networks

__all__ = [
    "export",
    "export_lungs",
    "export_reader",
    "export_refiner",
    "halved_weights",
    "load_checkpoint",
    "new_card",
    "without_remarks",
]

_OPSET = 20
"""The first whose GridSample matches torch's."""


def load_checkpoint(checkpoint: Path) -> Networks:
    """The averaged networks of a checkpoint, ready to export."""
    networks = Networks()
    networks.load_state_dict(torch.load(checkpoint, weights_only=True)["averaged"])
    networks.eval()
    return networks


def export(networks: Networks, folder: Path) -> None:
    """Write ``view.onnx`` and ``volume.onnx``, each also in FP16, with their weights inside."""
    folder.mkdir(parents=True, exist_ok=True)
    half = GRID // 2
    view, volume = networks.view.eval(), networks.volume.eval()
    pictures = (torch.rand(1, CHANNELS, PICTURE_PX, PICTURE_PX), torch.rand(1, 3, 4))
    starts = (
        torch.rand(1, SUMS, half, half, half),
        torch.rand(1, 1, half, half, half),
        torch.rand(1, 1, GRID, GRID, GRID),
        torch.tensor([4.0]),
    )
    for made, path in ((view, VIEW_FILE), (halved(view), HALF[VIEW_FILE])):
        _export(made, pictures, ["picture", "picture_from_grid"], ["sums"], folder / path)
    for made, path in ((volume, VOLUME_FILE), (halved(volume), HALF[VOLUME_FILE])):
        _export(made, starts, ["sums", "coarse", "fine", "views"], ["outputs"], folder / path)


def new_card(folder: Path, name: str, training: dict[str, str | int | float | list[str]]) -> None:
    """Write a card for an exported model, which does not run without one; figures are added once they are measured."""
    files = (*HALF.keys(), *HALF.values())
    hashes = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}
    write_card(folder, Card("navnode/model/1", name, hashes, training))


def export_reader(
    checkpoint: Path,
    folder: Path,
    training: dict[str, str | int | float | list[str]],
    metrics: dict[str, dict[str, float]],
) -> None:
    """Write a checkpoint's averaged reader as ``reader.onnx``, with weights in half precision, and its card.

    Engines compute in FP32: the graph widens its weights when it is loaded.
    """
    network = ReaderNet()
    network.load_state_dict(averaged_weights(checkpoint))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / READER_FILE
    _export(network.eval(), (torch.rand(1, reader.CHANNELS, 256, 256),), ["pictures"], ["outputs"], path)
    _store_halved([path], "reader", training, metrics)


def export_refiner(
    checkpoint: Path,
    folder: Path,
    training: dict[str, str | int | float | list[str]],
    metrics: dict[str, dict[str, float]],
) -> None:
    """Write a checkpoint's averaged refiner as ``features.onnx`` and ``refiner.onnx``, like :func:`export_reader`; the
    latter takes grids of any size."""
    networks = Refinement()
    networks.load_state_dict(averaged_weights(checkpoint))
    networks.eval()
    folder.mkdir(parents=True, exist_ok=True)
    picture = (torch.rand(1, refining.PICTURES, *[refining.PICTURE_PX] * 2),)
    _export(networks.pictures, picture, ["pictures"], ["features"], folder / FEATURES_FILE)
    side, half = 2 * refining.BLOCK, refining.BLOCK
    channels = ((refining.FINE, side), (refining.COARSE, half), (2 * refining.FEATURES, half))
    given = tuple(torch.rand(1, count, *[size] * 3) for count, size in channels)
    blocks = torch.export.Dim("blocks", min=1, max=64)
    sides = [dict.fromkeys((2, 3, 4), factor * blocks) for factor in (refining.BLOCK, half // 2, half // 2)]
    _export(networks.volume, given, ["fine", "coarse", "felt"], ["logit"], folder / REFINER_FILE, dynamic=sides)
    _store_halved([folder / FEATURES_FILE, folder / REFINER_FILE], "refiner", training, metrics)


def export_lungs(
    checkpoint: Path,
    folder: Path,
    training: dict[str, str | int | float | list[str]],
    metrics: dict[str, dict[str, float]],
) -> None:
    """Write a checkpoint's averaged network as ``lungs.onnx``, like :func:`export_reader`; it takes grids of any
    size."""
    network = LungNet()
    network.load_state_dict(averaged_weights(checkpoint))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LUNGS_FILE
    given = (torch.rand(1, lungs.CHANNELS, *[2 * lungs.BLOCK] * 3),)
    blocks = torch.export.Dim("blocks", min=1, max=64)
    sides = [dict.fromkeys((2, 3, 4), lungs.BLOCK * blocks)]
    _export(network.eval(), given, ["evidence"], ["logit"], path, dynamic=sides)
    _store_halved([path], "lungs", training, metrics)


def _store_halved(
    paths: Sequence[Path],
    name: str,
    training: dict[str, str | int | float | list[str]],
    metrics: dict[str, dict[str, float]],
) -> None:
    """Store the weights of a folder's graphs in half precision, in place, and write its card."""
    hashes = {}
    for path in paths:
        graph = onnx.load(str(path))
        halved_weights(graph)
        onnx.save(graph, str(path))
        hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_card(paths[0].parent, Card("navnode/model/1", name, hashes, training, metrics=metrics or {}))


def halved_weights(model: Any) -> None:
    """Store an ONNX model's large FP32 weights in FP16, in place; a Cast widens each before its use."""
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or len(weight.raw_data) < 1024:
            continue
        name = weight.name
        values = onnx.numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def _export(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    names: list[str],
    outputs: list[str],
    path: Path,
    *,
    dynamic: Sequence[Mapping[int, object]] | None = None,
) -> None:
    program = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        opset_version=_OPSET,
        input_names=names,
        output_names=outputs,
        dynamic_shapes=dynamic,
        verbose=False,
    )
    assert program is not None
    program.save(str(path), external_data=False)
    graph = onnx.load(str(path))
    without_remarks(graph)
    onnx.save(graph, str(path))


def without_remarks(graph: Any) -> None:
    """Remove the origin of nodes from an ONNX model, in place: the exporter writes down file paths."""
    if graph.DESCRIPTOR.name in ("ModelProto", "GraphProto", "NodeProto", "TensorProto", "ValueInfoProto"):
        graph.doc_string = ""
        del graph.metadata_props[:]
    for field, value in graph.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                without_remarks(part)
