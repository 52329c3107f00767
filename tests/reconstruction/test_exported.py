"""Weights of shipped models: what training goes on from computes what the models compute."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from navnode.errors import ConfigError
from navnode.reconstruction import engines, lungs, models, reader, refining

pytest.importorskip("torch", reason="training needs the extra `train`")
pytest.importorskip("onnx", reason="training needs the extra `train`")

import torch

from navnode.reconstruction.network import LungNet, ReaderNet, Refinement
from navnode.reconstruction.training.exported import LUNG_GRAPHS, READER_GRAPHS, REFINER_GRAPHS, start_of
from navnode.reconstruction.training.learner import RUN, Files, Learner, Pace, Run


def test_the_reader_reads_as_the_shipped_one():
    network = ReaderNet().eval()
    start = start_of(models.SHIPPED_READER, READER_GRAPHS)
    start.given_to(network)
    assert start.steps > 20_000
    pictures = np.random.default_rng(1).random((1, reader.CHANNELS, 64, 64)).astype(np.float32)
    pictures = np.pad(pictures, [(0, 0), (0, 0), (96, 96), (96, 96)])
    run, _ = engines.load_reader(threads=1, exactly=True)
    (expected,) = run({"pictures": pictures})
    with torch.no_grad():
        output = network(torch.from_numpy(pictures)).numpy()
    assert np.abs(output - expected).max() < 0.01 * np.abs(expected).max()


def test_the_refiner_sees_as_the_shipped_one():
    networks = Refinement().eval()
    start_of(models.SHIPPED_REFINER, REFINER_GRAPHS).given_to(networks)
    picture = np.random.default_rng(2).random((1, refining.PICTURES, *[refining.PICTURE_PX] * 2)).astype(np.float32)
    features, _, _ = engines.load_refiner(threads=1, exactly=True)
    (expected,) = features({"pictures": picture})
    with torch.no_grad():
        output = networks.pictures(torch.from_numpy(picture)).numpy()
    assert np.abs(output - expected).max() < 0.01 * np.abs(expected).max()


def test_the_network_finds_lungs_as_the_shipped_one():
    network = LungNet().eval()
    start_of(models.SHIPPED_LUNGS, LUNG_GRAPHS).given_to(network)
    evidence = np.random.default_rng(3).random((1, lungs.CHANNELS, *[lungs.BLOCK] * 3)).astype(np.float32)
    run, _ = engines.load_lungs(threads=1, exactly=True)
    (expected,) = run({"evidence": evidence})
    with torch.no_grad():
        output = network(torch.from_numpy(evidence)).numpy()
    assert np.abs(output - expected).max() < 0.01 * np.abs(expected).max()


def test_a_training_without_a_checkpoint_goes_on_from_a_model(tmp_path):
    files = Files(tmp_path / "reader.pt", tmp_path / "losses", tmp_path / "scores")
    start = start_of(models.SHIPPED_READER, READER_GRAPHS)
    learner = Learner(ReaderNet, files, Pace(), Run(start=models.SHIPPED_READER), READER_GRAPHS)
    assert learner.step == start.steps
    assert torch.equal(learner.averaged.state_dict()["stem.bias"], start.weights["stem.bias"])
    learner.save()
    assert Learner(ReaderNet, files, Pace(), RUN, READER_GRAPHS).step == start.steps  # a checkpoint needs no model


def test_a_model_of_another_network_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="another network: pictures"):
        start_of(models.SHIPPED_READER, READER_GRAPHS).given_to(Refinement())
    shutil.copytree(models.SHIPPED_READER, tmp_path / "model")
    (tmp_path / "model" / models.READER_FILE).write_bytes(b"not a graph")
    with pytest.raises(ConfigError, match=r"reader\.onnx"):
        start_of(tmp_path / "model", READER_GRAPHS)
