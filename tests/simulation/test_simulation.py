import numpy as np
import pytest

from navnode import geometry as g
from navnode.files.volumes import read_volume
from navnode.simulation.practice import as_seen, margin_px
from navnode.simulation.scenario import (
    CARM_DEVICE,
    CARM_FROM_MARKER,
    MARKER_FROM_TOOLTIP,
    PATIENT_DEVICE,
    Scenario,
    carm_of_size,
    scenario_for,
)
from navnode.xray.chain import XrayChain, cylinder_chords_mm

SCENARIO = Scenario(isocentre_mm=np.array([5.0, -40.0, 12.0]), targets_mm=np.zeros((1, 3)))
TIMES = np.linspace(0, SCENARIO.period_s, 33)


@pytest.mark.parametrize("t", TIMES)
def test_what_the_tracker_sees_leads_back_to_the_truth(t):
    """The chain of docs/frames.md, from measurements and calibrations to the true poses."""
    volume_from_tracker = SCENARIO.volume_from_patient @ g.inverse(SCENARIO.tracker_from_marker(PATIENT_DEVICE, t))
    tool = volume_from_tracker @ SCENARIO.tracker_from_marker(SCENARIO.tool_device, t) @ MARKER_FROM_TOOLTIP
    assert np.allclose(tool, SCENARIO.volume_from_tool(t), atol=1e-9)
    carm = volume_from_tracker @ SCENARIO.tracker_from_marker(CARM_DEVICE, t) @ g.inverse(CARM_FROM_MARKER)
    assert np.allclose(carm, SCENARIO.volume_from_carm(t), atol=1e-9)


def test_everything_repeats():
    for t in TIMES:
        for device in (CARM_DEVICE, PATIENT_DEVICE, SCENARIO.tool_device):
            now, later = (SCENARIO.tracker_from_marker(device, x) for x in (t, t + SCENARIO.period_s))
            assert np.allclose(now, later, atol=1e-6)


def test_stations_are_ap_and_lateral():
    ap, lateral = SCENARIO.volume_from_carm(0.0)[:3, 2], SCENARIO.volume_from_carm(8.5)[:3, 2]
    assert g.angle_between_rad(ap, np.array([0.0, 1.0, 0.0])) < 0.01
    assert g.angle_between_rad(lateral, np.array([-1.0, 0.0, 0.0])) < 0.15


def test_superior_is_up_in_the_picture():
    carm = carm_of_size(256)
    carm_from_volume = g.inverse(SCENARIO.volume_from_carm(0.0))
    above = g.project(carm, carm_from_volume, SCENARIO.isocentre_mm + (0, 0, 30.0))
    assert above[1] < carm.principal_point_px[1] - 20


def test_the_patient_breathes_and_the_marker_goes_along():
    moves = [SCENARIO.tracker_from_marker(PATIENT_DEVICE, t)[:3, 3] for t in TIMES]
    assert np.ptp(moves, axis=0).max() > 1.0


@pytest.mark.parametrize("size_px", [100, 256, 512])
def test_a_carm_with_errors_sees_no_edge_of_what_was_rendered(size_px):
    """Within the margin counts rise along both axes, so that a pixel that was repeated, or made up, does not."""
    seen, across = as_seen(size_px), np.arange(1, size_px + 2 * margin_px(size_px) + 1, dtype=np.float32)
    for t in TIMES:
        for ramp in (np.tile(across, (len(across), 1)), np.tile(across[:, None], (1, len(across)))):
            counts = seen(ramp, SCENARIO.orbital_rad(t), SCENARIO.angulation_rad(t))
            assert counts.shape == (size_px, size_px)
            axis = 1 if ramp[0, 0] < ramp[0, 1] else 0
            assert counts.min() > 1 and counts.max() < len(across)
            assert np.diff(counts, axis=axis).min() > 0.9


def test_counts_follow_beer_lambert_and_poisson():
    carm = carm_of_size(256)
    detector = XrayChain(scatter_fraction=0.0, blur_sigma_mm=1e-3, read_noise=0.0)
    line = np.full((256, 256), 2.0, np.float32)
    counts = detector.expose(line, carm, 1.0, np.random.default_rng(0)).astype(np.float64)
    expected = detector.i0 * np.exp(-2.0)
    assert counts.mean() == pytest.approx(expected, rel=2e-3)
    assert counts.var() == pytest.approx(expected, rel=0.03)


def test_scatter_has_its_share_and_none_without_a_patient():
    carm = carm_of_size(256)
    detector = XrayChain(scatter_fraction=0.1, blur_sigma_mm=1e-3, read_noise=0.0)
    through = np.full((256, 256), 3.0, np.float32)
    mean = detector.expose(through, carm, 1.0, np.random.default_rng(0)).mean()
    assert mean == pytest.approx(1.1 * detector.i0 * np.exp(-3.0), rel=0.01)
    air = detector.expose(np.zeros((256, 256), np.float32), carm, 1.0, np.random.default_rng(0)).mean()
    assert air == pytest.approx(detector.i0, rel=2e-3)


def test_a_cylinder_across_the_beam():
    carm = carm_of_size(1024)
    across = g.rigid(g.rotation_exp(np.array([0.0, np.pi / 2, 0.0])), (60.0, 0.0, 700.0))
    chords = cylinder_chords_mm(carm, across, 3.0, 120.0)
    assert chords.max() == pytest.approx(6.0, rel=0.02)
    # What the rays see adds up to the cylinder's volume, pixels shrunk from the detector to the tool's distance.
    volume_mm3 = chords.sum() * carm.pixel_spacing_mm[0] ** 2 / (1020 / 700) ** 2
    assert volume_mm3 == pytest.approx(np.pi * 3.0**2 * 120.0, rel=0.02)


@pytest.mark.long
def test_the_scenario_finds_the_spine(procedural_ct):
    volume = read_volume(procedural_ct)
    scenario = scenario_for(volume)
    assert abs(scenario.isocentre_mm[0]) < 8 and -75 < scenario.isocentre_mm[1] < -45
    assert len(scenario.targets_mm) == 200
    assert (np.linalg.norm(scenario.targets_mm - scenario.isocentre_mm, axis=1) < 60).all()
