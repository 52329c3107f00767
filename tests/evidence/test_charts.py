"""Charts over calibrations: a drift of 0.3 mm raises an alarm within five checks, noise alone hardly ever."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from navnode.errors import ConfigError
from navnode.evidence.charts import BASELINE, DRIFT_MM, chart, read_folders
from navnode.files import artifacts
from navnode.files.artifacts import Artifact, PivotResult

TIP = np.array([12.0, -4.0, 182.0])
directions = st.tuples(st.floats(0, 2 * np.pi), st.floats(-1, 1))


def unit(drawn):
    angle, z = drawn
    return np.array([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z])


@pytest.mark.risk("calibration-drift")
@given(directions, st.integers(0, 2**31), st.floats(0, 0.03), st.integers(BASELINE, 40), st.booleans())
def test_a_drift_raises_an_alarm_within_five_checks(direction, seed, noise_mm, steady, at_once):
    """A step, or a slow growth that reaches 0.3 mm at the fifth check, however long all was well before."""
    rng = np.random.default_rng(seed)
    noise = noise_mm * np.clip(rng.normal(size=(steady + 5, 3)), -2, 2)
    grown = np.ones(5) if at_once else np.arange(1, 6) / 5
    points = TIP + noise
    points[steady:] += DRIFT_MM * grown[:, None] * unit(direction)
    drawn = chart(points)
    assert any(check.alarm for check in drawn.checks[steady:]) and drawn.alarmed
    assert not any(check.alarm for check in drawn.checks[:BASELINE])


@pytest.mark.parametrize(("noise_mm", "missed"), [(0.03, 0.002), (0.05, 0.02), (0.08, 0.06)])
def test_how_often_it_is_missed_in_normal_noise(noise_mm, missed):
    rng = np.random.default_rng(5)
    quiet = 0
    for _ in range(1000):
        points = TIP + noise_mm * rng.normal(size=(BASELINE + 5, 3))
        points[BASELINE:] += DRIFT_MM * np.arange(1, 6)[:, None] / 5 * np.array([0.6, 0.0, 0.8])
        quiet += not chart(points).alarmed
    assert quiet <= missed * 1000, quiet


@pytest.mark.parametrize(("noise_mm", "share"), [(0.005, 0.0), (0.03, 0.03), (0.05, 0.04)])
def test_noise_alone_raises_few_alarms(noise_mm, share):
    """In ten checks after the first five."""
    rng = np.random.default_rng(6)
    alarmed = sum(chart(TIP + noise_mm * rng.normal(size=(15, 3))).alarmed for _ in range(1000))
    assert alarmed <= share * 1000, alarmed


@pytest.mark.risk("calibration-drift")
def test_what_is_too_noisy_is_never_called_steady():
    rng = np.random.default_rng(7)
    verdicts = {chart(TIP + 0.3 * rng.normal(size=(8, 3))).verdict for _ in range(200)}
    assert verdicts <= {"blind", "drift", "steady"} and sum(v == "steady" for v in verdicts) <= 1


def test_few_calibrations_are_not_judged():
    assert chart(np.tile(TIP, (BASELINE, 1))).verdict == "too few"
    assert chart(np.tile(TIP, (BASELINE + 1, 1))).verdict == "steady"


def kept(folder, number, tip_mm, device="drill"):
    folder.mkdir(parents=True, exist_ok=True)
    result = PivotResult(tuple(map(float, tip_mm)))
    artifact = Artifact(kind="pivot", status="PASS", result=result, device=device, created_ns=number)
    artifacts.write(folder / f"pivot-{number}.json", artifact)


def test_calibrations_are_charted_by_device_in_the_order_of_time(tmp_path):
    for number in range(12):
        kept(tmp_path / f"case-{11 - number}", number, TIP + [0.3 * (number >= 8), 0, 0])
        kept(tmp_path / f"case-{number}", number + 100, TIP, "awl")
    (tmp_path / "notes.json").write_text("{}")
    charts, refused = read_folders([tmp_path])
    assert [(each.device, each.verdict) for each in charts] == [("awl", "steady"), ("drill", "drift")]
    assert [check.created_ns for check in charts[1].checks] == list(range(12))
    assert [check.alarm for check in charts[1].checks].index(True) == 8
    assert len(refused) == 1 and "notes.json" in refused[0]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        read_folders([tmp_path / "nowhere"])
