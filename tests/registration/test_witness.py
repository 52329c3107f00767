"""Whose marker moves while the C-arm rests: as tracker and X-rays show it together."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.registration.witness import Evidence, Moved, Witness

CENTER_MM = np.array([0.0, 10.0, -80.0])
TRACKER_FROM_PATIENT = g.rigid(g.rotation_exp(np.array([0.4, -1.1, 0.3])), (300.0, -50.0, 1900.0))
CARM_FROM_VOLUME = g.rigid(g.rotation_exp(np.array([-0.9, 0.2, 0.5])), (4.0, -6.0, 800.0))
VOLUME_FROM_PATIENT = g.rigid(g.rotation_exp(np.array([0.1, 0.7, -0.2])), (12.0, 3.0, 60.0))
TRACKER_FROM_CARM = TRACKER_FROM_PATIENT @ g.inverse(VOLUME_FROM_PATIENT) @ g.inverse(CARM_FROM_VOLUME)
XRAYS = 80
NOTHING = np.eye(4)
TURN = g.rigid(g.rotation_exp(np.array([0.005, 0.0, 0.0])))
"""4 mm at the anatomy, of a C-arm's marker."""


def by(mm: float) -> np.ndarray:
    return g.rigid(None, (0.0, mm, 0.0))


def told(
    patient: np.ndarray = NOTHING,
    carm: np.ndarray = NOTHING,
    true_carm: np.ndarray = NOTHING,
    table: np.ndarray = NOTHING,
    under: np.ndarray = NOTHING,
    breathing_mm: float = 0.0,
    noise_mm: float = 0.0,
    every_s: float = 0.1,
) -> list[tuple[float, Evidence]]:
    """Testimonies, and after which part of the way: all rests, goes evenly to where it is displaced, and rests again.

    Args:
        patient, carm: displacement of a marker on what carries it.
        true_carm: of the C-arm itself.
        table: of the patient with his marker.
        under: of the patient alone.
    """
    witness, random, said = Witness(), np.random.default_rng(5), []
    for n in range(3 * XRAYS):
        part = float(np.clip((n + 1 - XRAYS) / XRAYS, 0.0, 1.0))

        def partly(moved, part=part):
            return g.exp(part * g.log(moved))

        carried = by(breathing_mm * np.sin(1.4 * n * every_s)) @ partly(table)
        tracker_from_carm = TRACKER_FROM_CARM @ partly(true_carm)
        patient_seen = carried @ TRACKER_FROM_PATIENT @ partly(patient)
        carm_seen = g.rigid(None, noise_mm * random.standard_normal(3)) @ tracker_from_carm @ partly(carm)
        anatomy = carried @ TRACKER_FROM_PATIENT @ g.inverse(VOLUME_FROM_PATIENT) @ partly(under)
        patient_from_carm = g.inverse(patient_seen) @ carm_seen
        shown = g.inverse(patient_from_carm @ g.inverse(tracker_from_carm) @ anatomy)
        at_ns = round(n * every_s * 1e9)
        one = witness.add(at_ns, patient_seen, patient_from_carm, shown, VOLUME_FROM_PATIENT, CENTER_MM)
        if one is not None:
            said.append((part, one))
    return said


@pytest.mark.parametrize("breathing_mm", [0.0, 3.0])
@pytest.mark.parametrize("moved", [by(3.0), TURN], ids=["mm", "turn"])
def test_the_carms_marker_moves(moved, breathing_mm):
    part, said = told(carm=moved, breathing_mm=breathing_mm)[0]
    assert said.moved is Moved.CARMS and part < 0.6
    np.testing.assert_allclose(said.before, VOLUME_FROM_PATIENT)


@pytest.mark.parametrize("every_s", [0.03, 0.1, 0.5, 2.0])
def test_it_shows_through_noise_and_however_often_xrays_come(every_s):
    every = told(carm=by(4.0), noise_mm=0.2, every_s=every_s)
    assert {said.moved for _, said in every} == {Moved.CARMS}


@pytest.mark.parametrize("breathing_mm", [0.0, 3.0])
@pytest.mark.parametrize(("every_s", "noise_mm"), [(0.1, 0.0), (0.1, 0.2), (0.3, 0.2)])
def test_the_patients_marker_moves(breathing_mm, every_s, noise_mm):
    """As far as it moved in all, whatever breathing and noise add on the way."""
    every = told(patient=by(5.0), breathing_mm=breathing_mm, every_s=every_s, noise_mm=noise_mm)
    assert {said.moved for _, said in every} == {Moved.PATIENTS}
    moved = g.transform(VOLUME_FROM_PATIENT @ by(5.0), CENTER_MM) - g.transform(VOLUME_FROM_PATIENT, CENTER_MM)
    np.testing.assert_allclose(sum(said.by_mm for _, said in every), moved, atol=0.3 + 0.15 * breathing_mm)


@pytest.mark.parametrize("breathing_mm", [0.0, 3.0])
@pytest.mark.parametrize(
    "moves",
    [
        {},
        {"true_carm": by(5.0)},
        {"true_carm": g.rigid(g.rotation_exp(np.array([0.3, 0.0, 0.0])))},
        {"table": by(40.0)},
        {"under": by(5.0)},
        {"table": by(40.0), "patient": by(-5.0)},
        {"table": by(40.0), "under": by(5.0)},
    ],
    ids=["nothing", "the C-arm", "it turns", "the table", "he under his marker", "his marker and the table", "both"],
)
def test_neither_is_seen_to(moves, breathing_mm):
    assert not told(**moves, breathing_mm=breathing_mm, noise_mm=0.2)


def test_it_is_forgotten_with_what_was_before():
    witness = Witness()
    for n in range(150):
        if n == 60:
            witness.forget()
        patient_from_carm = g.inverse(TRACKER_FROM_PATIENT) @ TRACKER_FROM_CARM @ by(0.0 if n < 60 else 4.0)
        shown = g.inverse(patient_from_carm @ CARM_FROM_VOLUME)
        said = witness.add(n * 100_000_000, TRACKER_FROM_PATIENT, patient_from_carm, shown, NOTHING, CENTER_MM)
        assert said is None
