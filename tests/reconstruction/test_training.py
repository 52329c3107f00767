"""Training: it resumes, refuses to run without data, and draws plausible bodies."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from navnode.errors import ConfigError
from navnode.files.volumes import write_volume
from navnode.reconstruction import Method, Reconstructor, engines, models, training
from navnode.reconstruction.training.anatomy import BODIES
from navnode.types import Grid, Volume
from tests.reconstruction.balls import ball, views


@pytest.mark.long
def test_training_resumes_where_it_stopped_and_its_model_reconstructs(tmp_path, monkeypatch):
    for package in ("torch", "onnx", "onnxscript", "matplotlib"):
        pytest.importorskip(package)
    from navnode.reconstruction.training import train as training_by_steps

    # The smallest step: one block of one example, and one body drawn in advance.
    recipe = partial(training_by_steps.Recipe, batch=1, blocks=1)
    monkeypatch.setattr(training_by_steps, "Recipe", recipe)
    monkeypatch.setattr(training_by_steps, "_AHEAD", 1)
    cts, out = tmp_path / "cts", tmp_path / "run"
    cts.mkdir()
    write_volume(ball(hu=900.0), cts / "ball.nii.gz")
    write_volume(ball(), cts / "another.nii.gz")
    begun = training_by_steps.train(
        [ball(hu=900.0)], out, recipe(steps=2), until=lambda: (out / "losses.jsonl").stat().st_size > 0
    )
    assert begun == 1
    steps = []
    report = training.run(
        out,
        cts,
        ["another"],
        steps=2,
        hours=1.0,
        procedural=0,
        real_share=0.5,
        threads=2,
        report=lambda step, loss: steps.append(step),
    )
    assert steps == [2] and report.steps == 2
    assert [json.loads(line)["step"] for line in (out / "losses.jsonl").read_text().splitlines()] == [1, 2]
    assert (out / "curves.png").stat().st_size > 1000
    card = models.read_card(out / "model")
    assert card.training["cts"] == ["ball.nii.gz"] and card.training["held_out"] == ["another"]
    looked, load = [], engines.load

    def counting(*arguments, **options):
        networks = load(*arguments, **options)
        return replace(networks, view=lambda inputs: looked.append(1) or networks.view(inputs))

    monkeypatch.setattr(engines, "load", counting)
    given, learned = views(ball(), (0, 70)), Reconstructor(model=out / "model", threads=1)
    made = learned.reconstruct(given, Grid(96, 2.0))
    assert "was not measured" in made.reason
    assert made.method is Method.LEARNED and made.volume.voxels.shape == (96, 96, 96)
    assert made.uncertainty_hu is not None and (made.uncertainty_hu.voxels > 0).all()
    again = learned.reconstruct(given, Grid(96, 2.0))
    assert np.array_equal(again.volume.voxels, made.volume.voxels)
    assert len(looked) == 2, "known views are not computed again"


def test_training_without_data_is_refused(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    settings = {"steps": 1, "hours": 1.0, "procedural": 0, "real_share": 0.5, "threads": 1}
    with pytest.raises(ConfigError, match="not a folder"):
        training.run(tmp_path, tmp_path / "missing", [], **settings)
    with pytest.raises(ConfigError, match="nothing to train on"):
        training.run(tmp_path, None, [], **settings)


def test_a_failing_example_ends_training(tmp_path):
    pytest.importorskip("torch")
    from navnode.reconstruction.training.train import Recipe, train

    broken = Volume(np.zeros((2, 2), np.float32), np.eye(4))
    with pytest.raises((IndexError, ValueError)):
        train([broken], tmp_path, Recipe(steps=1))


@pytest.mark.parametrize("name", BODIES, ids=lambda body: body.__name__)
@pytest.mark.long
def test_procedural_bodies_hold_bone_flesh_and_air(name):
    body = name(np.random.default_rng(4))
    assert np.isfinite(body.hu).all() and body.hu.min() >= -1000 and body.hu.max() < 3000
    shares = [np.mean((body.hu >= low) & (body.hu < high)) for low, high in ((-1001, -700), (-200, 150), (250, 3000))]
    assert shares[0] > 0.02 and shares[1] > 0.05 and shares[2] > 0.003
