"""2D/3D registration of X-rays of real CTs, when they are at hand."""

from __future__ import annotations

import numpy as np
import pytest

from navnode.files.volumes import read_volume
from navnode.registration import register_counts
from navnode.types import Effort, Status
from tests.conftest import SHARED, slow
from tests.registration.cases import CARM, PIVOT_MM, TIMES, Case, away

CTS = sorted((SHARED / "ct").glob("*.nii.gz")) if SHARED.exists() else []
pytestmark = pytest.mark.skipif(not CTS, reason="the development CTs are not beside this checkout")


# Two of them, a whole one and one of a single vertebra, in every run.
@pytest.fixture(
    scope="module",
    params=[path if path.name.startswith(("abdomen_totalseg_example", "vertebra")) else slow(path) for path in CTS],
    ids=[path.name.split(".")[0] for path in CTS],
)
def real(request) -> Case:
    return Case(read_volume(request.param))


@pytest.mark.long
def test_another_patient_is_never_valid(torso, real):
    """X-rays of a real CT registered to the procedural torso, from the best start there is."""
    for t_s in (0.5, 9.0):
        start = torso.scenario.volume_from_carm(t_s)
        found = register_counts(torso.registration, real.counts(t_s), CARM, start, PIVOT_MM, Effort.SEARCH)
        assert found.validity.status is not Status.VALID, (t_s, found.similarity)


@pytest.mark.long
def test_mirrored_or_turned_images_of_real_cts_are_never_valid(real):
    """A cropped block of bone has an outline like its mirror image's; what tells them apart is that the other fits."""
    misread = (np.fliplr, np.flipud, np.rot90)
    for k, t_s in enumerate(TIMES):
        start = away(real, t_s, 6.0, 3.0, k)
        for how in misread:
            counts = np.ascontiguousarray(how(real.counts(t_s)))
            found = register_counts(real.registration, counts, CARM, start, PIVOT_MM, Effort.FIND)
            assert found.validity.status is not Status.VALID, (t_s, how, found.similarity)


def test_real_cts(real):
    """Across the beam every usable frame is right; depth is what a single view does not fix."""
    usable = 0
    for k, t_s in enumerate(TIMES):
        start = away(real, t_s, 6.0, 3.0, k)
        found = register_counts(real.registration, real.counts(t_s), CARM, start, PIVOT_MM, Effort.REFINE)
        across, depth = real.errors_mm(found.volume_from_carm, t_s)
        usable += found.validity.usable
        assert not found.validity.usable or (across < 1.0 and depth < 8.0), (t_s, across, depth)
    assert usable >= len(TIMES) - 1
