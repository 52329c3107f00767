"""TensorRT's plans, built, cached and authenticated; and engines, compared with each other."""

import json

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from navnode import cli
from navnode.errors import ConfigError
from navnode.reconstruction import Method, Reconstructor, engines, models, tensorrt
from navnode.reconstruction.lift import lift
from navnode.reconstruction.reading import Reader, thickness
from navnode.reconstruction.refining import Refiner
from navnode.types import Grid, View
from tests.reconstruction.balls import ball, views, with_a_rod


@pytest.fixture
def counted(monkeypatch):
    """Replace plans by cheap ones; the graphs that they were built from."""
    built = []

    def build(onnx: bytes) -> bytes:
        built.append(onnx)
        return b"plan of " + onnx

    monkeypatch.setattr(tensorrt, "build", build)
    return built


def test_a_plan_is_built_once(tmp_path, counted):
    assert tensorrt.cached(b"graph", tmp_path) == (b"plan of graph", False)
    assert tensorrt.cached(b"graph", tmp_path) == (b"plan of graph", True)
    assert tensorrt.cached(b"another", tmp_path) == (b"plan of another", False)
    assert counted == [b"graph", b"another"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1] + b"?", lambda b: b[:20], lambda b: b"", lambda b: b"\0" * len(b)])
def test_a_changed_plan_is_not_used(tmp_path, counted, damage):
    tensorrt.cached(b"graph", tmp_path)
    (plan,) = tmp_path.glob("*.plan")
    plan.write_bytes(damage(plan.read_bytes()))
    assert tensorrt.cached(b"graph", tmp_path) == (b"plan of graph", False)


def test_a_swapped_plan_is_not_used(tmp_path, counted):
    tensorrt.cached(b"graph", tmp_path)
    (first,) = tmp_path.glob("*.plan")
    content = first.read_bytes()
    tensorrt.cached(b"another", tmp_path)
    (second,) = set(tmp_path.glob("*.plan")) - {first}
    second.write_bytes(content)
    assert tensorrt.cached(b"another", tmp_path) == (b"plan of another", False)


def test_a_plan_under_another_key_is_not_used(tmp_path, counted):
    tensorrt.cached(b"graph", tmp_path)
    (tmp_path / "key").unlink()
    assert tensorrt.cached(b"graph", tmp_path)[1] is False


def test_a_key_that_others_can_read_is_refused(tmp_path, counted):
    tensorrt.cached(b"graph", tmp_path)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError, match="only this user"):
        tensorrt.cached(b"graph", tmp_path)


def test_without_a_gpu_nothing_crashes():
    if tensorrt.device():
        pytest.skip("this machine has a GPU")
    assert "tensorrt" not in engines.available()
    with pytest.raises(ConfigError, match="none responds"):
        tensorrt.Plan(b"anything at all")


def test_engines_are_listed_and_the_one_in_use_is_named():
    result = CliRunner().invoke(cli.app, ["engine", "list", "--json"])
    report = json.loads(result.stdout)
    assert [one["name"] for one in report["engines"]] == ["tensorrt", "openvino", "onnxruntime"]
    assert all(one["runs"] != bool(one["why_not"]) for one in report["engines"])
    assert report["uses"]


def test_tensorrt_refuses_what_is_not_a_graph():
    if tensorrt.package() is None:
        pytest.skip("TensorRT is not installed")
    with pytest.raises(ConfigError, match="rejects the graph"):
        tensorrt.build(b"not a graph")


@pytest.mark.skipif(not models.SHIPPED.exists(), reason="no model is shipped")
def test_tensorrt_takes_the_shipped_graphs(tmp_path, monkeypatch):
    if tensorrt.package() is None:
        pytest.skip("TensorRT is not installed")
    monkeypatch.setattr(engines, "plans_folder", lambda: tmp_path)
    built = engines.build()
    assert set(built) == set(models.HALF.values())
    assert all(size > 400_000 and not was_there for size, _, was_there in built.values())
    assert all(was_there for _, _, was_there in engines.build().values())


@pytest.mark.skipif(not models.SHIPPED.exists(), reason="no model is shipped")
@pytest.mark.long
def test_every_engine_matches_fp32():
    compared = engines.check(threads=2)
    assert compared and all(found.good for found in compared.values())
    assert all(found.max_error_hu < 2.0 for found in compared.values())


@pytest.mark.skipif(not models.SHIPPED.exists(), reason="no model is shipped")
@pytest.mark.long
def test_the_graphs_in_fp16_match_fp32(tmp_path):
    """ONNX Runtime rounds to FP16 after every operation, and so checks what a GPU gets even without one."""
    pytest.importorskip("onnxruntime")
    card = models.read_card(models.SHIPPED)
    for file, half in models.HALF.items():
        (tmp_path / file).write_bytes((models.SHIPPED / half).read_bytes())
    named = {file: card.sha256[half] for file, half in models.HALF.items()}
    models.write_card(tmp_path, msgspec.structs.replace(card, sha256=named))
    plain = engines.load(engine="onnxruntime", threads=2)
    found = engines.compare(engines.load(tmp_path, engine="onnxruntime", threads=2), plain, repeats=0)
    # Convolutions of 11-bit numbers; their outputs are added in FP32 to HU of up to 3000.
    assert found.good and 0 < found.max_error_hu < 5


def test_a_model_without_fp16_runs_in_fp32_everywhere():
    card = models.Card("navnode/model/1", "own", dict.fromkeys(models.HALF, "0" * 64), {})
    assert {engines.title(name, card) for name in ("tensorrt", "openvino")} == {"TensorRT fp32", "OpenVINO fp32"}


@pytest.mark.skipif(not models.SHIPPED.exists(), reason="no model is shipped")
@pytest.mark.long
def test_a_wrong_engine_is_detected():
    right = engines.load(engine=engines.available()[-1], threads=2)

    def wrong(inputs):
        return [out + np.float32(0.05) for out in right.volume(inputs)]

    broken = engines.Networks("broken", right.card, right.view, wrong)
    found = engines.compare(broken, right)
    assert not found.good and found.max_error_hu == pytest.approx(50, abs=1)


def test_tensorrt_on_a_gpu_matches_the_cpu():
    if not tensorrt.device() or tensorrt.package() is None:
        pytest.skip("no NVIDIA GPU with TensorRT")
    assert engines.load(engine="tensorrt").engine == "TensorRT fp16"


def test_every_precision_that_computes_is_named(monkeypatch):
    volume, bone = engines.load(threads=1).engine, engines.load_reader(threads=1)[1]
    named = volume if bone == volume else f"{volume}, bone in {bone}"
    assert Reconstructor(Method.LEARNED, threads=1).engine == named
    monkeypatch.setattr(engines, "_computes_in_bf16", lambda: False)
    assert "bf16" not in Reconstructor(Method.LEARNED, threads=1).engine
    assert Reconstructor(Method.SART).engine == "native"


@pytest.mark.long
def test_in_bf16_bone_is_read_and_refined_as_in_fp32():
    """BF16 has 8 bits where FP32 has 24: a reading may differ by a fraction of what it says of its own error."""
    if "bf16" not in engines.load_reader(threads=1)[1]:
        pytest.skip("this processor does not compute in BF16")
    body, _ = with_a_rod(ball())
    shown = views(body, (0.0, 90.0))
    by_both = [
        [Reader(threads=2, exactly=exactly).read(view, np.zeros(3)) for view in shown] for exactly in (False, True)
    ]
    for quick, exact in zip(*by_both, strict=True):
        bone = np.nan_to_num(exact.bone_mm) > 1
        off_mm = np.abs(quick.bone_mm - exact.bone_mm)[bone]
        assert bone.sum() > 200 and off_mm.mean() < 0.05 * exact.scale_mm[bone].mean()
        assert np.mean((quick.bone > 0.5) != (exact.bone > 0.5)) < 0.002
    grid, poses = Grid(64, 2.0), [view.volume_from_carm for view in shown]
    readings = by_both[1]
    lifted = lift([thickness(reading, pose) for reading, pose in zip(readings, poses, strict=True)], grid)
    quick, exact = (
        Refiner(models.SHIPPED_REFINER, threads=2, exactly=exactly).refine(lifted, readings, poses, grid).likely.voxels
        for exactly in (False, True)
    )
    assert 0 < np.abs(quick - exact).mean() < 0.002 and 0.001 < np.mean(exact > 0.5) < 0.5
    assert np.mean((quick > 0.5) != (exact > 0.5)) < 0.001


def test_a_mirrored_picture_is_read_as_the_mirror_image():
    body, _ = with_a_rod(ball())
    (view,) = views(body, (20.0,))
    reader = Reader(threads=2, exactly=True)
    plain = reader.read(view, np.zeros(3))
    mirrored = View(np.ascontiguousarray(view.line_integrals[:, ::-1]), view.carm, view.volume_from_carm)
    found = reader.read(mirrored, np.zeros(3))
    np.testing.assert_allclose(found.bone_mm[:, ::-1], plain.bone_mm, atol=0.02)
