"""What is tried on a GPU: every check says what came of it, here as there."""

from __future__ import annotations

import msgspec
import pytest

from navnode.bench import gpu
from navnode.errors import ComputeError
from navnode.reconstruction import tensorrt
from tests.invoke import call


@pytest.mark.skipif(bool(tensorrt.device()), reason="there is a GPU here: `make gpu-check` tries it")
def test_without_a_gpu_every_check_is_skipped_and_says_why(tmp_path):
    code, printed, _ = call("bench", "gpu", "--out", tmp_path / "gpu.json", "--json")
    assert code == 0 and set(printed["checks"]) >= {"TensorRT plans", "training"}
    report = msgspec.json.decode((tmp_path / "gpu.json").read_bytes(), type=gpu.GpuReport)
    assert report.gpu == "" and len(report.checks) == gpu.CHECKS
    assert {(check.status, check.reason) for check in report.checks.values()} == {("skipped", "no NVIDIA GPU responds")}


def test_a_check_that_fails_fails_the_command(monkeypatch):
    def differs():
        raise ComputeError("rays differ")

    monkeypatch.setattr(tensorrt, "device", lambda: "Some GPU 13000")
    monkeypatch.setattr(gpu, "_rays", differs)
    for other in ("_readers_agree", "_plans", "_engines_agree", "_volume"):
        monkeypatch.setattr(gpu, other, lambda: {"ms": 1.0})
    code, _, error = call("bench", "gpu", "--json")
    assert code == 1 and error == "failed: rays of nanodrr"
    report = gpu.run(None, 10)
    assert report.failed == ["rays of nanodrr"] and report.checks["TensorRT plans"].figures == {"ms": 1.0}
    assert report.checks["training"].status == "skipped"
