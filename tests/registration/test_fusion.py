import numpy as np

from navnode import geometry as g
from navnode.registration.fusion import PatientFilter, measurement

PIVOT_MM = 700.0
TRUTH = g.rigid(g.rotation_exp(np.array([0.2, -0.3, 0.9])), (30.0, -20.0, 50.0))
PIVOT_PATIENT = g.transform(g.inverse(TRUTH), np.zeros(3))
IMAGE_SIGMA = np.array([0.0003, 0.0003, 0.0002, 0.05, 0.05, 0.5])


def carm_at(orbital_rad: float) -> np.ndarray:
    """volume_from_carm with the pivot at the volume's origin."""
    turn = g.rotation_exp(np.array([0.0, 0.0, orbital_rad])) @ np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    return g.rigid(turn, -PIVOT_MM * turn[:, 2])


def look(orbital_rad: float, depth_bias_mm: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """One frame: image noise, and a depth error that every frame from there shares."""
    true = carm_at(orbital_rad)
    xi = rng.normal(0, IMAGE_SIGMA) + [0, 0, 0, 0, 0, depth_bias_mm]
    seen = true @ g.exp(xi, (0, 0, PIVOT_MM))
    return measurement(seen, np.diag(IMAGE_SIGMA**2), PIVOT_MM, g.inverse(true) @ TRUTH, PIVOT_PATIENT)


def started(orbital_rad: float, bias: float, rng) -> PatientFilter:
    measured, covariance = look(orbital_rad, bias, rng)
    return PatientFilter(measured, PIVOT_PATIENT, covariance * 30)


def error_mm(state: PatientFilter) -> float:
    off = g.transform(state.volume_from_patient, PIVOT_PATIENT) - g.transform(TRUTH, PIVOT_PATIENT)
    return float(np.linalg.norm(off))


def test_a_second_direction_takes_the_depth_error_out():
    rng = np.random.default_rng(0)
    state = started(0.0, 2.0, rng)
    for _ in range(30):
        state.update(*look(0.0, 2.0, rng))
    alone, sigma_alone = error_mm(state), state.target_sigma_mm
    for _ in range(30):
        state.update(*look(np.pi / 2, -2.0, rng))
    assert alone > 1.5 and error_mm(state) < 0.7
    assert state.target_sigma_mm < 0.6 * sigma_alone


def test_repeating_one_view_does_not_make_it_certain():
    rng = np.random.default_rng(0)
    state = started(0.0, 1.0, rng)
    for _ in range(30):
        state.update(*look(0.0, 1.0, rng))
    assert state.target_sigma_mm > 0.8


def test_the_stated_sigma_covers_the_error():
    ratios = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        biases = rng.normal(0, 1.0, 3)
        state = started(0.0, biases[0], rng)
        for orbital, bias in zip((0.0, 0.8, 1.57), biases, strict=True):
            for _ in range(20):
                state.update(*look(orbital, bias, rng))
        ratios.append(error_mm(state) / state.target_sigma_mm)
    assert np.mean(np.array(ratios) < 2.0) > 0.95


def test_what_contradicts_is_noticed():
    rng = np.random.default_rng(0)
    state = started(0.0, 0.0, rng)
    for orbital in (0.0, 0.8, 1.57):
        for _ in range(20):
            state.update(*look(orbital, 0.0, rng))
    measured, covariance = look(0.4, 0.0, rng)
    assert state.agrees(measured, covariance)
    assert not state.agrees(measured @ g.rigid(None, (0, 0, 8.0)), covariance)
    assert not state.agrees(measured @ g.rigid(g.rotation_exp(np.array([0.03, 0, 0]))), covariance)


def test_time_makes_it_less_certain():
    state = started(0.0, 0.0, np.random.default_rng(0))
    before = state.target_sigma_mm
    state.predict(60.0)
    assert state.target_sigma_mm > before
