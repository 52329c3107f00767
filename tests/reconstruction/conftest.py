"""An untrained model for all tests of the room."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of an exported network with random weights."""
    torch = pytest.importorskip("torch")
    for package in ("onnx", "onnxscript", "openvino", "onnxruntime"):
        pytest.importorskip(package)
    from navnode.reconstruction.training.export import export, new_card
    from navnode.reconstruction.training.train import Networks

    torch.manual_seed(0)
    networks = Networks()
    for weights in networks.parameters():
        if not weights.abs().max() > 0:
            torch.nn.init.normal_(weights, 0.0, 0.02)
    folder = tmp_path_factory.mktemp("model")
    export(networks, folder)
    new_card(folder, "random", {})
    return folder
