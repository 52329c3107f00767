import hashlib
import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from navnode import geometry as g
from navnode.errors import ComputeError, ConfigError
from navnode.files.volumes import write_volume
from navnode.projector import Projector
from navnode.projector.grids import centered_grid, onto
from navnode.projector.native import attenuation, hounsfield
from navnode.reconstruction import Method, Reconstructor, engines, reconstruct, training
from navnode.reconstruction.features import picture
from navnode.reconstruction.filtered import rotation_axis
from navnode.reconstruction.fit import Fit
from navnode.reconstruction.learned import Accumulator, bone_probability
from navnode.reconstruction.surface import bone_surface, likely_surface
from navnode.reconstruction.training.anatomy import BODIES
from navnode.types import CArm, Grid, Status, View, Volume

CARM = CArm(64, 64, (4.0, 4.0), 1000.0, (31.5, 31.5))


def ball(radius_mm: float = 30.0, hu: float = 400.0) -> Volume:
    volume_from_index = centered_grid((64, 64, 64), 2.0, np.zeros(3))
    k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
    distance = np.sqrt((i - 10) ** 2 + j**2 + (k + 6) ** 2)
    return Volume((-1000 + (hu + 1000) / (1 + np.exp(distance - radius_mm))).astype(np.float32), volume_from_index)


def views(volume: Volume, angles_deg) -> list[View]:
    projector = Projector(volume)
    made = []
    for angle in np.deg2rad(angles_deg):
        volume_from_carm = g.rigid(g.rotation_exp(np.array([0.0, angle, 0.0]))) @ g.rigid(None, (0, 0, -650.0))
        made.append(View(projector.render(CARM, volume_from_carm), CARM, volume_from_carm))
    return made


def test_a_ball_from_four_views_is_where_it_was():
    truth = ball()
    made = reconstruct(views(truth, (0, 45, 90, 135)), size=64, spacing_mm=2.0)
    inside = truth.voxels > -300
    assert made.voxels[inside].mean() == pytest.approx(truth.voxels[inside].mean(), abs=150)
    bright = np.argwhere(made.voxels > -300).mean(axis=0)
    assert np.allclose(bright, np.argwhere(inside).mean(axis=0), atol=1.0)


def test_less_total_variation_is_less_noise():
    truth = ball()
    rng = np.random.default_rng(0)
    given = [
        View(view.line_integrals + rng.normal(0, 0.1, view.line_integrals.shape).astype(np.float32), CARM,
             view.volume_from_carm)
        for view in views(truth, np.linspace(0, 180, 8, endpoint=False))
    ]  # fmt: skip
    inside = truth.voxels > 300
    plain, smooth = (
        reconstruct(given, method=method, size=64, spacing_mm=2.0).voxels[inside].std()
        for method in (Method.SART, Method.TV)
    )
    assert smooth < 0.9 * plain


def test_more_views_are_better():
    truth = ball()
    errors = []
    for count in (2, 4, 8):
        made = reconstruct(views(truth, np.linspace(0, 180, count, endpoint=False)), size=64, spacing_mm=2.0)
        errors.append(np.sqrt(np.mean((made.voxels - truth.voxels) ** 2)))
    assert errors[0] > errors[1] > errors[2]


def test_unmeasured_pixels_are_not_taken_for_air():
    truth = ball()
    given = views(truth, (0, 60, 120))
    with_gaps = []
    for view in given:
        line = view.line_integrals.copy()
        line[:, :8] = np.nan
        with_gaps.append(View(line, view.carm, view.volume_from_carm))
    made = reconstruct(with_gaps, size=64, spacing_mm=2.0)
    assert np.isfinite(made.voxels).all()
    assert made.voxels[truth.voxels > 0].mean() > 0


@pytest.mark.parametrize(
    ("angles", "reason"), [((), "0 view"), ((30,), "1 view"), ((10, 10), "same way"), ((0, 5), "same way")]
)
def test_too_little_is_said(angles, reason):
    with pytest.raises(ComputeError, match=reason):
        reconstruct(views(ball(), angles), size=32)


def test_a_view_without_a_pose_is_named():
    good = views(ball(), (0, 60))
    with pytest.raises(ComputeError, match="view 2 has no pose"):
        reconstruct([*good, View(good[0].line_integrals, CARM, None)], size=32)


def test_the_bone_surface_is_closed_and_faces_outward():
    surface = bone_surface(ball(hu=900.0))
    mesh = surface.mesh
    edges = {}
    for a, b, c in mesh.triangles.tolist():
        for edge in ((a, b), (b, c), (c, a)):
            edges[edge] = edges.get(edge, 0) + 1
    assert all(count == 1 and (b, a) in edges for (a, b), count in edges.items())
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, k]].astype(np.float64) for k in range(3))
    volume_mm3 = np.einsum("ni,ni->n", a, np.cross(b, c)).sum() / 6
    radius_mm = np.cbrt(volume_mm3 * 3 / (4 * np.pi))  # positive only when faces look outward
    assert radius_mm == pytest.approx(30.0, abs=1.5)
    assert np.allclose(mesh.vertices_mm.mean(axis=0), (10, 0, -6), atol=0.7)
    assert surface.volume_cm3 == pytest.approx(volume_mm3 / 1000)
    assert np.allclose(surface.size_mm, 60.0, atol=3.0) and surface.error_mm is None


def test_the_surface_of_a_probability_says_how_far_off_it_may_be():
    errors_mm = []
    for blur_mm in (2.0, 5.0):
        k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
        likely = 1 / (1 + np.exp((np.sqrt(i**2 + j**2 + k**2) - 40) / blur_mm))
        surface = likely_surface(Volume(likely.astype(np.float32), centered_grid((64,) * 3, 2.0, np.zeros(3))))
        assert np.allclose(surface.size_mm, 80.0, atol=2.0)
        errors_mm.append(surface.error_mm)
    # Under a logistic edge lies ln 2 times its width, on either side.
    assert errors_mm == pytest.approx([2 * 2 * np.log(2), 2 * 5 * np.log(2)], rel=0.15)
    assert likely_surface(Volume(np.zeros((20, 20, 20), np.float32), np.eye(4))) is None


def test_no_bone_no_surface():
    assert bone_surface(Volume(np.full((20, 20, 20), -900, np.float32), np.eye(4))) is None


@pytest.mark.parametrize("roll_deg", [0.0, 37.0])
def test_filtered_back_projection_finds_attenuation_however_the_detector_is_turned(roll_deg):
    truth = ball()
    turned = g.rigid(g.rotation_exp(np.array([0.0, 0.0, np.deg2rad(roll_deg)])))
    projector = Projector(truth)
    given = []
    for angle in np.deg2rad(np.arange(0, 180, 2)):
        volume_from_carm = g.rigid(g.rotation_exp(np.array([0.0, angle, 0.0]))) @ g.rigid(None, (0, 0, -650.0)) @ turned
        given.append(View(projector.render(CARM, volume_from_carm), CARM, volume_from_carm))
    made = reconstruct(given, method=Method.FDK, size=64, spacing_mm=2.0)
    k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
    distance = np.sqrt((i - 10) ** 2 + j**2 + (k + 6) ** 2)
    assert made.voxels[distance < 22].mean() == pytest.approx(400.0, abs=40)
    assert made.voxels[(distance > 40) & (distance < 55)].mean() == pytest.approx(-1000.0, abs=60)


def test_gaps_between_views_are_their_weights():
    directions = [np.array([np.sin(a), 0.0, np.cos(a)]) for a in np.deg2rad([0, 10, 90, 280])]
    axis, weights = rotation_axis(directions)
    assert abs(axis[1]) == pytest.approx(1.0)
    assert weights.sum() == pytest.approx(np.pi)
    # 280 degrees is 100: gaps are 10, 80, 10, 80.
    assert np.rad2deg(weights) == pytest.approx([45, 45, 45, 45])


@examples(st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(-40, 40)] * 3), st.tuples(*[st.floats(0, 127)] * 3))
def test_pictures_are_projected_into_as_the_c_arm_projects(turn, shift, voxel):
    volume_from_carm_turn = g.rigid(g.rotation_exp(np.array(turn)), shift)
    carm = CArm(400, 300, (0.5, 0.4), 1000.0, (180.0, 160.0))
    volume_from_carm = volume_from_carm_turn @ g.rigid(None, (0.0, 0.0, -600.0))
    grid = centered_grid((128,) * 3, 1.5, np.array(volume_from_carm_turn[:3, 3]))
    view = View(np.ones((150, 200), np.float32), carm.binned(2), volume_from_carm)
    rows = picture(view, grid).picture_from_grid @ np.array([*voxel, 1.0])
    u, v = g.project(carm, g.inverse(volume_from_carm), (grid @ [*voxel, 1.0])[None, :3])[0]
    # 400 pixels become 256 of the picture: -1..1 is from edge to edge.
    assert rows[0] / rows[2] == pytest.approx((u + 0.5) / 200 - 1, abs=1e-3)
    assert rows[1] / rows[2] == pytest.approx((v + 0.5) / 200 - 1, abs=1e-3)


def test_pictures_know_where_nothing_was_measured():
    line = np.ones((96, 128), np.float32)
    line[:, :32] = np.nan
    pose = g.rigid(None, (0.0, 0.0, -600.0))
    made = picture(
        View(line, CArm(128, 96, (2.0, 2.0), 1000.0, (63.5, 47.5)), pose), centered_grid((128,) * 3, 2.0, np.zeros(3))
    )
    measured = made.channels[3]
    assert not measured[:, :62].any() and not measured[194:].any() and measured[2:190, 66:].all()
    assert np.isfinite(made.channels).all() and not made.channels[:3, :, :62].any()


def test_a_model_is_run_only_if_its_card_names_it(tmp_path):
    with pytest.raises(ConfigError, match="no model"):
        engines.load(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"card\.json"):
        engines.load(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network with random weights, exported."""
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


def test_views_come_in_any_order_and_can_be_taken_out(model):
    networks = engines.load(model, threads=2)
    given = views(ball(), (0, 60, 100))
    one, other = (Accumulator(networks, np.zeros(3), 2.0) for _ in range(2))
    for view in given:
        one.add(view)
    moved = View(given[1].line_integrals, CARM, given[1].volume_from_carm @ g.rigid(None, (3.0, 0.0, 0.0)))
    for view in (given[2], moved, given[0], given[1], given[2]):
        other.add(view)
    assert other.views == 4
    other.keep(given)
    assert other.views == one.views == 3
    assert np.abs(one.result().volume.voxels - other.result().volume.voxels).max() < 1.0
    one.keep(given[1:])
    assert np.abs(one.result().volume.voxels - other.result().volume.voxels).max() > 1.0


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
        # Sums of some thousand products in another order, float32.
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
        said = networks.view(inputs)
        # A voxel on the very edge of the picture may be seen by one and not by the other.
        assert np.mean(np.abs(said[0] - sums.numpy()) > 1e-3) < 1e-4


def test_an_altered_model_is_refused(model, tmp_path):
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "view.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0")
    with pytest.raises(ConfigError, match=r"not the file that card\.json names"):
        engines.load(tmp_path)


def test_a_model_that_keeps_its_weights_elsewhere_is_refused(model, tmp_path):
    import onnx

    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    onnx.save_model(
        onnx.load(model / "view.onnx"), tmp_path / "view.onnx", save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    card = engines.read_card(tmp_path)
    digest = hashlib.sha256((tmp_path / "view.onnx").read_bytes()).hexdigest()
    engines.write_card(tmp_path, msgspec.structs.replace(card, sha256={**card.sha256, "view.onnx": digest}))
    with pytest.raises(ConfigError, match="keeps weights in other files"):
        engines.load(tmp_path)
    assert not any(engines._KEPT_ELSEWHERE in path.read_bytes() for path in model.glob("*.onnx"))


def test_models_do_not_tell_where_they_were_made(model):
    for folder in (model, engines.SHIPPED):
        for path in folder.glob("*.onnx"):
            assert not any(trace in path.read_bytes() for trace in (b"stack_trace", b"site-packages", b"network.py"))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_what_is_no_graph_is_refused_by_name(model, tmp_path, engine):
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "view.onnx").write_bytes(b"not a graph")
    card = engines.read_card(tmp_path)
    digest = hashlib.sha256(b"not a graph").hexdigest()
    engines.write_card(tmp_path, msgspec.structs.replace(card, sha256={**card.sha256, "view.onnx": digest}))
    with pytest.raises(ConfigError, match=r"view\.onnx"):
        engines.load(tmp_path, engine=engine)


def test_training_goes_on_where_it_stopped_and_its_model_reconstructs(tmp_path):
    for package in ("torch", "onnx", "onnxscript", "matplotlib"):
        pytest.importorskip(package)
    from navnode.reconstruction.training.train import Recipe, train

    cts, out = tmp_path / "cts", tmp_path / "run"
    cts.mkdir()
    write_volume(ball(hu=900.0), cts / "ball.nii.gz")
    write_volume(ball(), cts / "another.nii.gz")
    assert train([ball(hu=900.0)], out, Recipe(steps=2), until=lambda: (out / "losses.jsonl").stat().st_size > 0) == 1
    told = []
    report = training.run(
        out, cts, ["another"], steps=2, hours=1.0, procedural=0, real_share=0.5, threads=2,
        report=lambda step, loss: told.append(step),
    )  # fmt: skip
    assert told == [2] and report["steps"] == 2
    assert [json.loads(line)["step"] for line in (out / "losses.jsonl").read_text().splitlines()] == [1, 2]
    assert (out / "curves.png").stat().st_size > 1000
    card = engines.read_card(out / "model")
    assert card.training["cts"] == ["ball.nii.gz"] and card.training["held_out"] == ["another"]
    given, learned = views(ball(), (0, 70)), Reconstructor(model=out / "model", threads=1)
    made = learned.reconstruct(given, Grid(96, 2.0))
    assert "was not measured" in made.reason
    assert made.method is Method.LEARNED and made.volume.voxels.shape == (96, 96, 96)
    assert made.uncertainty_hu is not None and (made.uncertainty_hu.voxels > 0).all()
    again = learned.reconstruct(given, Grid(96, 2.0))
    assert np.array_equal(again.volume.voxels, made.volume.voxels)
    assert sum(again.per_view_ms) < sum(made.per_view_ms) / 5  # nothing is computed that is known


def test_nothing_to_train_on_is_said(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    settings = {"steps": 1, "hours": 1.0, "procedural": 0, "real_share": 0.5, "threads": 1}
    with pytest.raises(ConfigError, match="not a folder"):
        training.run(tmp_path, tmp_path / "missing", [], **settings)
    with pytest.raises(ConfigError, match="nothing to train on"):
        training.run(tmp_path, None, [], **settings)


def test_an_example_that_cannot_be_made_ends_training(tmp_path):
    pytest.importorskip("torch")
    from navnode.reconstruction.training.train import Recipe, train

    broken = Volume(np.zeros((2, 2), np.float32), np.eye(4))
    with pytest.raises((IndexError, ValueError)):
        train([broken], tmp_path, Recipe(steps=1))


def test_a_model_is_not_for_classical_methods(tmp_path):
    with pytest.raises(ConfigError, match="not for sart"):
        Reconstructor(Method.SART, model=tmp_path)
    with pytest.raises(ConfigError, match="no model"):
        Reconstructor(model=tmp_path)


@pytest.mark.parametrize("name", BODIES, ids=lambda body: body.__name__)
def test_procedural_bodies_hold_bone_flesh_and_air(name):
    body = name(np.random.default_rng(4))
    assert np.isfinite(body.hu).all() and body.hu.min() >= -1000 and body.hu.max() < 3000
    shares = [np.mean((body.hu >= low) & (body.hu < high)) for low, high in ((-1001, -700), (-200, 150), (250, 3000))]
    assert shares[0] > 0.02 and shares[1] > 0.05 and shares[2] > 0.003


def _with_a_rod(volume: Volume) -> tuple[Volume, np.ndarray]:
    k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
    rod = (np.hypot(i - 14, j - 4) < 5) & (np.abs(k + 6) < 16)
    return Volume(np.where(rod, 1500.0, volume.voxels).astype(np.float32), volume.volume_from_index), rod


def test_what_the_x_rays_contradict_of_a_prior_is_changed_and_the_rest_is_kept():
    before = ball()
    truth, rod = _with_a_rod(before)
    given = views(truth, (0, 45, 90, 135))
    made = Reconstructor(Method.PRIOR).reconstruct(given, Grid(64, 2.0), prior=before)
    assert made.method is Method.PRIOR and made.status.value == "DEGRADED" and "rests on the CT alone" in made.reason
    off = [np.sqrt(np.mean((hu - truth.voxels)[rod] ** 2)) for hu in (before.voxels, made.volume.voxels)]
    assert off[1] < 0.6 * off[0]
    far = np.abs(np.indices(rod.shape) - np.argwhere(rod).mean(axis=0)[:, None, None, None]).max(axis=0) > 14
    assert np.abs(made.volume.voxels - before.voxels)[far].mean() < 1.0
    assert made.rests is not None and made.rests.voxels[rod].mean() < 0.3
    without = reconstruct(given, method=Method.SART, size=64, spacing_mm=2.0)
    gain_db = 20 * np.log10(np.std(without.voxels - truth.voxels) / np.std(made.volume.voxels - truth.voxels))
    assert gain_db > 4


def test_a_prior_that_nothing_contradicts_stays_as_it_is():
    before = ball()
    made = Reconstructor(Method.PRIOR).reconstruct(views(before, (0, 45, 90)), Grid(64, 2.0), prior=before)
    assert np.abs(made.volume.voxels - before.voxels).max() < 20


def test_a_prior_that_ends_inside_the_body_is_refused():
    whole = ball()
    moved = whole.volume_from_index.copy()
    moved[2, 3] += 2.0 * 26
    short = Volume(whole.voxels[26:34], moved)
    with pytest.raises(ComputeError, match="too short"):
        Reconstructor(Method.PRIOR).reconstruct(views(whole, (0, 45, 90)), Grid(64, 2.0), prior=short)


def test_a_prior_that_is_elsewhere_is_refused():
    rng, body = np.random.default_rng(0), ball()
    grains = gaussian_filter(rng.normal(0, 4000, (64,) * 3), 1.5) * (body.voxels > 0)
    grainy = Volume((body.voxels + grains).astype(np.float32), body.volume_from_index)
    moved = Volume(grainy.voxels, g.rigid(None, (16.0, 12.0, -16.0)) @ body.volume_from_index)
    given = views(grainy, (0, 45, 90))
    with pytest.raises(ComputeError, match="do not look like this CT"):
        Reconstructor(Method.PRIOR).reconstruct(given, Grid(64, 2.0), prior=moved)
    assert Reconstructor(Method.PRIOR).reconstruct(given, Grid(64, 2.0), prior=grainy).rests is not None


def test_a_prior_and_its_method_belong_together():
    with pytest.raises(ConfigError, match="belong together"):
        Reconstructor(Method.PRIOR).reconstruct(views(ball(), (0, 90)))
    with pytest.raises(ConfigError, match="belong together"):
        Reconstructor(Method.SART).reconstruct(views(ball(), (0, 90)), prior=ball())


def test_what_the_volume_says_of_bone_counts_with_the_views():
    logit, hu = np.zeros(3, np.float32), np.array([-200.0, 200.0, 600.0], np.float32)
    assert np.allclose(bone_probability(logit, hu, 4, 0.0), 0.5)
    few, many = (bone_probability(logit, hu, views, 2.5) for views in (2, 16))
    assert few[1] == many[1] == 0.5 and many[0] < few[0] < 0.5 < few[2] < many[2]
    assert np.isfinite(bone_probability(np.full(3, 1e4, np.float32), hu, 16, 10.0)).all()


def test_smoothing_is_a_gaussian():
    fit = Fit(ball(), threads=1)
    fit.mu[:] = np.random.default_rng(0).uniform(0, 0.05, fit.mu.shape)
    expected = gaussian_filter(fit.mu, 0.7)
    fit.smooth(0.7)
    assert np.allclose(fit.mu, expected, atol=1e-6)


def test_a_volume_made_to_agree_looks_more_like_its_views():
    truth, _ = _with_a_rod(ball())
    given = views(truth, (0, 45, 90, 135))
    fit = Fit(ball(), given, threads=2)
    fit.mu[:] = attenuation(ball().voxels)
    fit.agree(sweeps=3)

    def off(volume: Volume) -> float:
        projector = Projector(volume)
        lines = [projector.render(view.carm, view.volume_from_carm) - view.line_integrals for view in given]
        return float(np.sqrt(np.mean(np.square(lines))))

    after = Volume(hounsfield(fit.mu), truth.volume_from_index)
    assert off(after) < 0.7 * off(ball())
    assert after.voxels.shape == truth.voxels.shape and (after.voxels >= -1000).all()


@pytest.mark.skipif(not engines.SHIPPED.exists(), reason="no model is shipped")
def test_the_shipped_model_makes_a_likeness_and_says_how_sure_it_is():
    truth = ball(radius_mm=40.0, hu=100.0)
    made = Reconstructor(Method.LEARNED, threads=2).reconstruct(views(truth, (0, 45, 90, 135)), Grid(spacing_mm=1.0))
    assert made.engine in {engines.title(name) for name in engines.available()} and "not measured" not in made.reason
    assert made.uncertainty_hu is not None
    seen = made.uncertainty_hu.voxels < 4000
    expected = onto(truth, made.volume.volume_from_index, (128,) * 3).voxels
    assert seen.mean() > 0.5
    assert np.corrcoef(made.volume.voxels[seen], expected[seen])[0, 1] > 0.9
    within = np.abs(made.volume.voxels - expected)[seen] <= made.uncertainty_hu.voxels[seen]
    assert within.mean() > 0.8


@pytest.mark.skipif(not engines.SHIPPED.exists(), reason="no model is shipped")
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda: views(ball(), (30,)), "1 view is not enough"),
        (lambda: views(ball(), (10, 10)), "same way"),
        (lambda: [replace(view, volume_from_carm=g.rigid(None, (900.0, 0, 0)) @ view.volume_from_carm)
                  for view in views(ball(), (0, 60))], "do not overlap"),
        (lambda: [replace(view, line_integrals=np.full_like(view.line_integrals, np.nan))
                  for view in views(ball(), (0, 60))], "saturated everywhere"),
    ],
)  # fmt: skip
def test_what_the_network_can_make_nothing_of_is_said(given, reason):
    with pytest.raises(ComputeError, match=reason):
        Reconstructor(Method.LEARNED, threads=2).reconstruct(given())


@pytest.mark.skipif(not engines.SHIPPED.exists(), reason="no model is shipped")
def test_metal_truncation_and_a_wrong_pose_leave_a_degraded_volume_of_possible_hu():
    with_metal, _ = _with_a_rod(ball(radius_mm=50.0, hu=50.0))
    learned = Reconstructor(Method.LEARNED, threads=2)
    given = views(with_metal, (0, 50, 100))
    cut = []
    for view in given:
        line = view.line_integrals.copy()
        line[:12], line[:, 50:] = np.nan, np.nan
        cut.append(replace(view, line_integrals=line))
    off = [given[0], replace(given[1], volume_from_carm=g.rigid(None, (0, 25.0, 10.0)) @ given[1].volume_from_carm)]
    for each in (given, cut, off):
        made = learned.reconstruct(each, Grid(spacing_mm=1.5))
        assert made.status is Status.DEGRADED and made.reason
        assert made.uncertainty_hu is not None and made.bone is not None
        assert np.isfinite(made.volume.voxels).all() and (made.uncertainty_hu.voxels > 0).all()
        assert made.volume.voxels.min() >= -1000 and made.volume.voxels.max() <= 4000
        assert made.bone.voxels.min() >= 0 and made.bone.voxels.max() <= 1


def test_auto_is_what_was_found_to_be_better():
    expected = Method.LEARNED if engines.preferred() else Method.SART
    assert Reconstructor().method is expected
    assert Reconstructor(Method.SART).method is Method.SART
