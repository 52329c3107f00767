"""The registration benchmark judges rightly: its cases, its figures and its report."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from navnode import geometry as g
from navnode.bench import registration as bench
from navnode.bench.cases import Chain, Patient
from navnode.files.volumes import read_volume
from navnode.projector import Projector
from navnode.projector.grids import coarsened
from navnode.registration import ImageRegistration
from navnode.types import Registration, Status, Validity


@pytest.fixture(scope="module")
def patient(procedural_ct) -> Patient:
    volume = coarsened(read_volume(procedural_ct), 3.0)
    return Patient(volume, Projector(volume).render)


def test_errors_are_those_of_the_targets(patient):
    case = patient.case(np.random.default_rng(0), 60_000.0)
    right = case.errors_mm(case.volume_from_carm)
    assert right.full < 1e-9
    aside = case.errors_mm(case.volume_from_carm @ g.rigid(None, (3.0, 4.0, 0.0)))
    assert aside.lateral == pytest.approx(5.0) and aside.depth < 1e-9
    deep = case.errors_mm(case.volume_from_carm @ g.rigid(None, (0.0, 0.0, 7.0)))
    assert deep.depth == pytest.approx(7.0) and deep.lateral < 1e-9 and deep.full == pytest.approx(7.0)


def test_starts_are_as_far_off_as_they_say(patient):
    case, rng = patient.case(np.random.default_rng(1), 60_000.0), np.random.default_rng(2)
    off = []
    for _ in range(200):
        moved = g.inverse(case.volume_from_carm) @ case.start(rng, 10, 20, 6)
        off.append(g.log(moved, (0, 0, case.pivot_mm)))
    across = np.linalg.norm(np.array(off)[:, 3:5], axis=1)
    turn = np.rad2deg(np.linalg.norm(np.array(off)[:, :3], axis=1))
    assert 8.0 < across.max() <= 10.0 and 17.0 < np.abs(np.array(off)[:, 5]).max() <= 20.0 and 5.0 < turn.max() <= 6.01


def test_errors_are_counted_in_stated_sigmas_of_what_is_valid(patient):
    case = patient.case(np.random.default_rng(3), 60_000.0)
    off = np.array([0.001, 0.0, -0.004, 0.2, -1.5, 3.0])
    moved = case.volume_from_carm @ g.exp(off, (0.0, 0.0, 650.0))
    covariance = np.diag(np.array([0.001, 0.001, 0.002, 0.1, 1.0, 1.0]) ** 2)
    found = Registration(moved, Validity(Status.VALID, "", 0), 0.01, 0.99, covariance, 650.0, 1, 1.0)
    outcome = bench.Outcome("a start", "a CT", case, found, case.errors_mm(moved))
    assert outcome.sigmas == pytest.approx([1.0, 0.0, -2.0, 2.0, -1.5, 3.0], abs=1e-6)
    doubted = replace(outcome, registration=replace(found, validity=Validity(Status.DEGRADED, "", 0)))
    figures = bench.figures([outcome, doubted])
    assert (figures.sigma_holds.hits, figures.sigma_holds.of) == (3, 6)


def test_the_chain_makes_fewer_counts_of_less_dose():
    line = np.full((64, 64), 3.0, np.float32)
    from navnode.simulation.scenario import carm_of_size

    few, many = (
        Chain(i0=i0, scatter=0.05).expose(line, carm_of_size(64), np.random.default_rng(0)) for i0 in (600.0, 60_000.0)
    )
    assert many.mean() / few.mean() == pytest.approx(100.0, rel=0.05)
    assert few.std() / few.mean() > 5 * many.std() / many.mean()


def test_rates_have_intervals():
    none, all_of_them = bench.rate(0, 200), bench.rate(200, 200)
    assert none.rate == 0 and none.low == 0 and none.high == pytest.approx(0.0188, abs=1e-3)
    assert all_of_them.low == pytest.approx(0.9812, abs=1e-3) and all_of_them.high == 1.0
    assert bench.rate(0, 0).high == 1.0


@pytest.mark.slow  # a whole run
def test_a_run_is_measured_and_reported(patient, tmp_path):
    measured = bench.Measured(volumes={"drawn": patient.volume})
    registration = ImageRegistration(patient.volume)
    bench._measure(measured, "drawn", registration, patient, [], 2, 0, lambda share: None)
    figures = bench.summary(measured)
    assert len(measured.singles) == 6 and len(measured.joint) == 2 and len(measured.sequences) == 120
    assert figures.unknown.found.hits == figures.unknown.found.of == 1
    assert figures.quality.wrong_image_valid["blank"].hits == 0
    assert figures.singles[bench.GROUPS[0].name].lateral_mm.median < 1.0
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib (the extra 'bench') is not installed: no report")
    from navnode.bench import report

    report.write(tmp_path / "report.html", measured, figures)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5 and "src='http" not in page
