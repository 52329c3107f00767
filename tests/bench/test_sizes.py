"""How times grow with sizes: every row is there, and threads are modelled from what was measured."""

import numpy as np
import pytest

from navnode.bench import sizes
from navnode.commands.bench_figures import draw_sizes

pytestmark = pytest.mark.long


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setattr(sizes, "VOLUMES", (24, 32))
    monkeypatch.setattr(sizes, "DETECTORS_PX", (16, 32))
    monkeypatch.setattr(sizes, "FULL_SIZE", (96, 96, 60))
    monkeypatch.setattr(sizes, "FINER", (1, 2))
    told = []
    made = sizes.run(1, 2, told.append)
    assert len(told) == sizes.steps()
    return made


def test_every_size_is_measured_and_shown(report, capsys):
    assert [row.voxels for row in report.projections] == [24, 32]
    assert all(list(row.ms) == ["16", "32"] and min(row.ms.values()) > 0 for row in report.projections)
    # Two layouts of two bytes a voxel, with two voxels of air on each side.
    assert report.projections[0].memory_mib == pytest.approx(2 * 2 * 28**3 / 2**20, abs=0.06)
    assert [row.detector_px for row in report.registrations] == [512, 512, 1024]
    assert report.registrations[1].ct == "full size, 96 x 96 x 60"
    draw_sizes(report)
    shown = capsys.readouterr().out
    assert "32³" in shown and "1024²" in shown and "16:" in shown


def test_threads_share_a_part_of_the_time():
    modelled = sizes._modelled({1: 100.0, 2: 60.0})
    assert modelled == {"1": 100.0, "2": 60.0, "4": 40.0, "8": 30.0, "16": 25.0}
    assert sizes._modelled({1: 100.0}) == {}
    assert min(sizes._modelled({1: 100.0, 2: 45.0}).values()) == 6.25  # faster than shared: nothing is left alone


def test_a_full_size_ct_shows_the_same_body(monkeypatch):
    monkeypatch.setattr(sizes, "FULL_SIZE", (256, 256, 150))
    small = sizes.anatomy.torso()
    full = sizes.full_size(small)
    assert full.voxels.shape == (150, 256, 256)
    np.testing.assert_allclose(full.center_mm, small.center_mm, atol=1e-6)
    around = []
    for each in (small, full):
        half = np.round(40 / np.array(each.spacing_mm[::-1])).astype(int)
        middle = np.array(each.voxels.shape) // 2
        within = tuple(slice(a - b, a + b) for a, b in zip(middle, half, strict=True))
        around.append(float(each.voxels[within].mean(dtype=np.float64)))
    assert around[1] == pytest.approx(around[0], abs=8)
