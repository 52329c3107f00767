"""Models on disk: which run, which are refused, and what they compute."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from navnode.errors import ComputeError, ConfigError
from navnode.projector.grids import centered_grid
from navnode.reconstruction import engines, features, models, reader, refining
from navnode.reconstruction.features import picture
from tests.reconstruction.balls import ball, views

pytestmark = pytest.mark.long


def test_a_model_without_a_valid_card_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no model"):
        engines.load(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"card\.json"):
        engines.load(tmp_path)


def test_an_altered_model_is_refused(model, tmp_path):
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "view.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0")
    with pytest.raises(ConfigError, match=r"does not match the hash in card\.json"):
        engines.load(tmp_path)


def test_a_model_that_keeps_its_weights_elsewhere_is_refused(model, tmp_path):
    import onnx

    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    onnx.save_model(
        onnx.load(model / "view.onnx"),
        tmp_path / "view.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    card = models.read_card(tmp_path)
    digest = hashlib.sha256((tmp_path / "view.onnx").read_bytes()).hexdigest()
    models.write_card(tmp_path, msgspec.structs.replace(card, sha256={**card.sha256, "view.onnx": digest}))
    with pytest.raises(ConfigError, match="keeps weights in other files"):
        engines.load(tmp_path)
    # The same entry with a length of two bytes, which protobuf allows.
    content = (tmp_path / "view.onnx").read_bytes().replace(b"\x0a\x08location", b"\x0a\x88\x00location")
    (tmp_path / "view.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    models.write_card(tmp_path, msgspec.structs.replace(card, sha256={**card.sha256, "view.onnx": digest}))
    with pytest.raises(ConfigError, match="keeps weights in other files"):
        engines.load(tmp_path)
    assert not any(models._EXTERNAL_DATA.search(path.read_bytes()) for path in model.glob("*.onnx"))


@pytest.mark.parametrize("stated", [{"sigma_factor": 0.0}, {"sigma_factor": -1.0}, {"bone_threshold": -5.0}])
def test_a_card_with_impossible_values_is_refused(model, tmp_path, stated):
    card = msgspec.json.decode((model / "card.json").read_bytes())
    (tmp_path / "card.json").write_bytes(msgspec.json.encode({**card, **stated}))
    with pytest.raises(ConfigError, match=next(iter(stated))):
        models.read_card(tmp_path)


def test_graphs_that_are_exchanged_are_named(model, tmp_path):
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    view, volume = (tmp_path / name for name in ("view.onnx", "volume.onnx"))
    one, other = view.read_bytes(), volume.read_bytes()
    view.write_bytes(other)
    volume.write_bytes(one)
    card = models.read_card(tmp_path)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (view, volume)}
    models.write_card(tmp_path, msgspec.structs.replace(card, sha256={**card.sha256, **hashes}))
    with pytest.raises(ConfigError, match=r"view\.onnx: the graph cannot be run"):
        engines.check(tmp_path)


def test_what_files_say_that_graphs_give_is_what_networks_give():
    network = pytest.importorskip("navnode.reconstruction.network")
    channels = {file: gives.channels for file, gives in models.GIVES.items()}
    assert channels == {
        models.VIEW_FILE: network.SUMS,
        models.VOLUME_FILE: network.OUTPUTS,
        models.READER_FILE: reader.OUTPUTS,
        models.FEATURES_FILE: refining.FEATURES,
        models.REFINER_FILE: 1,
        models.LUNGS_FILE: 1,
    }
    assert models.GIVES[models.VIEW_FILE].side == features.GRID // 2


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ([(1, 10, 8, 8)], "not of this kind"),
        ([(1, 11, 8, 4)], "not of this kind"),
        ([(11, 8, 8)], "not of this kind"),
        ([(1, 11, 8, 8)] * 2, "not of this kind"),
        ([], "not of this kind"),
    ],
)
def test_a_graph_with_other_outputs_is_named(outputs, reason):
    run = models.answering(lambda inputs: [np.zeros(shape, np.float32) for shape in outputs], Path("m/reader.onnx"))
    with pytest.raises(ComputeError, match=rf"m/reader\.onnx: .*{reason}"):
        run({"pictures": np.zeros((1, 4, 8, 8), np.float32)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9, -1e9])
@pytest.mark.parametrize("file", ["volume.onnx", "volume.fp16.onnx"])
def test_a_graph_that_answers_with_nonsense_is_named(file, value):
    outputs = np.zeros((1, 3, 4, 4, 4), np.float32)
    run = models.answering(lambda inputs: [outputs], Path(file))
    given = {"sums": np.zeros((1, 33, 2, 2, 2), np.float32), "fine": np.zeros((1, 1, 4, 4, 4), np.float32)}
    assert run(given)[0] is outputs
    outputs[0, 1, 2, 3, 3] = value
    with pytest.raises(ComputeError, match="not finite or absurd"):
        run(given)


def test_models_do_not_reveal_where_they_were_exported(model):
    for folder in (model, models.SHIPPED):
        for path in folder.glob("*.onnx"):
            assert not any(trace in path.read_bytes() for trace in (b"stack_trace", b"site-packages", b"network.py"))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_file_that_is_not_a_graph_is_refused_by_name(model, tmp_path, engine):
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "view.onnx").write_bytes(b"not a graph")
    card = models.read_card(tmp_path)
    digest = hashlib.sha256(b"not a graph").hexdigest()
    models.write_card(tmp_path, msgspec.structs.replace(card, sha256={**card.sha256, "view.onnx": digest}))
    with pytest.raises(ConfigError, match=r"view\.onnx"):
        engines.load(tmp_path, engine=engine)


def test_engines_agree_with_torch(model):
    import torch

    from navnode.reconstruction.training.train import Networks

    made = picture(views(ball(), (20,))[0], centered_grid((128,) * 3, 2.0, np.zeros(3)))
    inputs = {"picture": made.channels[None], "picture_from_grid": made.picture_from_grid[None]}
    torch.manual_seed(0)
    reference = Networks()
    for weights in reference.parameters():
        if not weights.abs().max() > 0:
            torch.nn.init.normal_(weights, 0.0, 0.02)
    with torch.no_grad():
        sums = reference.view(*(torch.from_numpy(value) for value in inputs.values()))
        coarse, fine = torch.rand(1, 1, 64, 64, 64) - 1, torch.rand(1, 1, 128, 128, 128) - 1
        expected = reference.volume(sums, coarse, fine, torch.ones(1)).numpy()
    for name in engines.available():
        networks = engines.load(model, engine=name, threads=2)
        given = {"sums": sums.numpy(), "coarse": coarse.numpy(), "fine": fine.numpy(), "views": np.ones(1, np.float32)}
        found = networks.volume(given)[0]
        # float32 sums of a few thousand products in another order.
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
        output = networks.view(inputs)
        # One may see a voxel on the very edge of the picture, and the other not.
        assert np.mean(np.abs(output[0] - sums.numpy()) > 1e-3) < 1e-4
