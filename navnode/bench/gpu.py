"""Everything that needs an NVIDIA GPU, tried in one run: what it computes, beside the CPU, and how fast.

A check that cannot run here says why. A result that differs from the CPU's is a failure.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.bench.projector import DIRECTIONS
from navnode.clock import elapsed_ms
from navnode.errors import ComputeError
from navnode.projector.nanodrr import NanodrrRays
from navnode.projector.native import Projector, attenuation
from navnode.reconstruction import Method, Reconstructor, engines, models, tensorrt
from navnode.types import CArm, Grid, View, Volume

__all__ = ["CHECKS", "Check", "GpuReport", "run"]

CHECKS = 6
"""Number of things tried."""

_LARGEST_RATIO = 0.02
"""Mean difference between rays of nanodrr on the GPU and ours, over the largest line integral: each samples the volume
in its own way."""
_LARGEST_HU = 300.0
"""Mean error of a phantom from two views: far from this, something computes nonsense."""
_LEAST_STEPS = 20


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried."""

    status: str
    """``passed``, ``failed`` or ``skipped``."""
    reason: str = ""
    """Why it failed or was skipped."""
    figures: dict[str, float] = {}
    """By name, with their units in the names."""
    seconds: float = 0.0


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a GPU does for navnode."""

    gpu: str
    """Its name and driver's version; '' if there is none."""
    torch: str
    """Version of PyTorch; '' if it is not installed."""
    tensorrt: str
    """Package and version; '' if none is installed."""
    checks: dict[str, Check]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [name for name, check in self.checks.items() if check.status == "failed"]


class _SkipError(Exception):
    """A check cannot run here, and why."""


def run(pack: Path | None, train_s: float, progress: Callable[[str], None] = lambda what: None) -> GpuReport:
    """Try everything; on a machine without a GPU, every check says so.

    Args:
        pack: data to train on, from ``navnode train-pack``; None: the training is skipped.
        train_s: time to train for.
        progress: called with the name of each check before it runs.
    """
    checks: dict[str, Callable[[], dict[str, float]]] = {
        "PyTorch computes on the GPU what it does on the CPU": _readers_agree,
        "rays of nanodrr": _rays,
        "TensorRT plans": _plans,
        "TensorRT beside the CPU": _engines_agree,
        "a volume as the worker makes it": _volume,
        "training": lambda: _training(pack, train_s),
    }
    assert len(checks) == CHECKS
    done = {}
    for name, check in checks.items():
        progress(name)
        done[name] = _tried(check)
    return GpuReport(gpu=tensorrt.device(), torch=_torch_version(), tensorrt=tensorrt.version(), checks=done)


def _tried(check: Callable[[], dict[str, float]]) -> Check:
    began = time.perf_counter()
    figures: dict[str, float] = {}
    try:
        if not tensorrt.device():
            raise _SkipError("no NVIDIA GPU responds")
        figures, status, reason = check(), "passed", ""
    except _SkipError as skipped:
        status, reason = "skipped", str(skipped)
    except Exception as error:  # the report is about what fails
        status, reason = "failed", f"{type(error).__name__}: {error}"
    return Check(status=status, reason=reason, figures=figures, seconds=round(time.perf_counter() - began, 2))


def _torch_version() -> str:
    return importlib.metadata.version("torch") if importlib.util.find_spec("torch") else ""


def _torch() -> Any:
    """PyTorch with CUDA."""
    if not importlib.util.find_spec("torch"):
        raise _SkipError("PyTorch is not installed: pip install 'navnode[train]'")
    import torch

    if not torch.cuda.is_available():
        raise _SkipError("this build of PyTorch cannot use the GPU")
    return torch


def _readers_agree() -> dict[str, float]:
    """The shipped reader on the GPU: as it is, in half precision, and as a CUDA graph."""
    torch = _torch()
    from navnode.reconstruction.reader import CANVAS_PX, CHANNELS
    from navnode.reconstruction.training.refining import load_reader

    network = load_reader(models.SHIPPED_READER)
    pictures = torch.rand(1, CHANNELS, CANVAS_PX, CANVAS_PX, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(pictures)
        began = time.perf_counter()
        network(pictures)
        cpu_ms = elapsed_ms(began)
        network, given = network.cuda(), pictures.cuda()
        whole = network(given).cpu()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(stream), torch.autocast("cuda", torch.bfloat16):
            network(given)
            stream.synchronize()
        with torch.cuda.graph(graph, stream=stream), torch.autocast("cuda", torch.bfloat16):
            output = network(given)
        graph.replay()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(20):
            graph.replay()
        torch.cuda.synchronize()
        graph_ms = elapsed_ms(began) / 20
    scale = float(expected.abs().max())
    figures = {
        "largest_difference_fp32": float((whole - expected).abs().max()) / scale,
        "mean_difference_bf16_graph": float((output.float().cpu() - expected).abs().mean()) / scale,
        "graph_ms": graph_ms,
        "cpu_ms": cpu_ms,
    }
    _hold(figures["largest_difference_fp32"] < 0.01, "the reader's outputs differ", figures)
    _hold(figures["mean_difference_bf16_graph"] < 0.02, "the reader's outputs in half precision differ", figures)
    return _rounded(figures)


def _ball() -> Volume:
    """A shell of bone in a ball of tissue, HU, 64 voxels of 3 mm along each side."""
    z, y, x = np.meshgrid(*[np.linspace(-94.5, 94.5, 64)] * 3, indexing="ij")
    away = np.sqrt(x * x + (1.2 * y) ** 2 + (0.8 * z) ** 2)
    hu = np.where(away < 85, 40.0, -1000.0) + np.where((away > 45) & (away < 60), 700.0, 0.0)
    return Volume(hu.astype(np.float32), Grid(64, 3.0).volume_from_index)


def _rays() -> dict[str, float]:
    """nanodrr on the GPU beside the projector on the CPU."""
    torch = _torch()
    if not importlib.util.find_spec("nanodrr"):
        raise _SkipError("nanodrr is not installed: pip install 'navnode[gpu]'")
    ball, carm = _ball(), CArm(256, 256, (1.2, 1.2), 1000.0, (127.5, 127.5))
    ours = Projector(ball)
    theirs = NanodrrRays(attenuation(ball.voxels), ball.volume_from_index, "cuda")
    worst, their_s, our_s = 0.0, [], []
    for orbital_deg, angulation_deg in DIRECTIONS.values():
        pose = g.pose_at(np.zeros(3), 650.0, orbital_deg=orbital_deg, angulation_deg=angulation_deg)
        expected, _ = ours.render(carm, pose, jacobian=True)
        began = time.perf_counter()
        ours.render(carm, pose, jacobian=True)
        our_s.append(time.perf_counter() - began)
        theirs.project(carm, pose, None, 650.0, jacobian=True)
        torch.cuda.synchronize()
        began = time.perf_counter()
        line, _ = theirs.project(carm, pose, None, 650.0, jacobian=True)
        torch.cuda.synchronize()
        their_s.append(time.perf_counter() - began)
        worst = max(worst, float(np.abs(np.reshape(line, expected.shape) - expected).mean() / expected.max()))
    figures = {
        "mean_difference": worst,
        "nanodrr_ms": 1e3 * float(np.median(their_s)),
        "cpu_ms": 1e3 * float(np.median(our_s)),
    }
    _hold(worst < _LARGEST_RATIO, "rays differ", figures)
    return _rounded(figures)


def _needs_tensorrt() -> None:
    if tensorrt.package() is None:
        raise _SkipError("TensorRT is not installed: pip install 'navnode[gpu]'")
    _torch()


def _plans() -> dict[str, float]:
    """Plans of the shipped graphs, single and half precision, built anew, loaded and run once."""
    _needs_tensorrt()
    figures = {}
    for path in sorted(models.SHIPPED.glob("*.onnx")):
        began = time.perf_counter()
        plan = tensorrt.build(path.read_bytes())
        figures[f"{path.stem}_build_s"] = time.perf_counter() - began
        tensorrt.Plan(plan)
    return _rounded(figures)


def _engines_agree() -> dict[str, float]:
    """TensorRT's volume beside that of plain FP32."""
    _needs_tensorrt()
    compared = engines.check()
    if "tensorrt" not in compared:
        raise ComputeError("TensorRT is installed, but not used")
    mine = compared["tensorrt"]
    others = [each.volume_ms for name, each in compared.items() if name != "tensorrt"]
    figures = {
        "largest_error_hu": mine.max_error_hu,
        "dice_change": mine.dice_change,
        "view_ms": mine.view_ms,
        "volume_ms": mine.volume_ms,
        "cpu_volume_ms": min(others, default=float("nan")),
    }
    _hold(mine.good, "TensorRT's volume differs", figures)
    return _rounded(figures)


def _volume() -> dict[str, float]:
    """A volume from two views as the worker makes it, by the engine that it chooses."""
    _needs_tensorrt()
    ball, carm = _ball(), CArm(256, 256, (1.2, 1.2), 1000.0, (127.5, 127.5))
    projector, views = Projector(ball), []
    for orbital_deg in (0.0, 90.0):
        pose = g.pose_at(np.zeros(3), 650.0, orbital_deg=orbital_deg)
        views.append(View(projector.render(carm, pose), carm, pose))
    worker = Reconstructor(Method.LEARNED)
    _hold("TensorRT" in worker.engine, f"the worker would use {worker.engine}", {})
    grid, took_ms = Grid(64, 3.0), []
    for _ in range(3):
        worker.forget()
        began = time.perf_counter()
        made = worker.reconstruct(views, grid).volume.voxels
        took_ms.append(elapsed_ms(began))
    inside = ball.voxels > -500
    figures = {
        "mean_error_inside_hu": float(np.abs(made - ball.voxels)[inside].mean()),
        "cold_ms": took_ms[0],
        "warm_ms": took_ms[-1],
    }
    _hold(figures["mean_error_inside_hu"] < _LARGEST_HU, "the volume is not that of the body", figures)
    return _rounded(figures)


def _training(pack: Path | None, train_s: float) -> dict[str, float]:
    """The reader, trained on a pack for a short while from the shipped weights."""
    _torch()
    if pack is None:
        raise _SkipError("name data to train on: --pack FILE, made by navnode train-pack")
    from navnode.reconstruction import models, training

    data, start = training.Data(pack=pack), models.SHIPPED_READER
    with TemporaryDirectory() as folder:
        training.run_reader(data, Path(folder), start=start, hours=train_s / 3600, device="cuda", threads=0)
        lines = [json.loads(line) for line in (Path(folder) / "reader_losses.jsonl").read_text().splitlines()]
    figures = {
        "steps": float(len(lines)),
        "first_loss": float(np.mean([line["loss"] for line in lines[:_LEAST_STEPS]])),
        "last_loss": float(np.mean([line["loss"] for line in lines[-_LEAST_STEPS:]])),
    }
    _hold(len(lines) >= _LEAST_STEPS, "too few steps", figures)
    _hold(bool(np.isfinite(figures["last_loss"])), "the loss is not finite", figures)
    return _rounded(figures)


def _hold(true: bool, what: str, figures: Mapping[str, float]) -> None:
    """Raise ComputeError if a check does not hold."""
    if not true:
        raise ComputeError(f"{what}: {', '.join(f'{name} {value:.4g}' for name, value in figures.items())}")


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
