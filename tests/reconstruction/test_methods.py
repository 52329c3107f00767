"""The choice of a method, and views that none can use."""

from __future__ import annotations

import pytest

from navnode.errors import ComputeError, ConfigError
from navnode.reconstruction import Method, Reconstructor, engines, reconstruct
from navnode.types import View
from tests.reconstruction.balls import CARM, ball, views


def test_auto_chooses_the_better_method():
    expected = Method.LEARNED if engines.preferred() else Method.SART
    assert Reconstructor().method is expected
    assert Reconstructor(Method.SART).method is Method.SART


def test_classical_methods_use_no_model(tmp_path):
    with pytest.raises(ConfigError, match="not sart"):
        Reconstructor(Method.SART, model=tmp_path)
    with pytest.raises(ConfigError, match="no model"):
        Reconstructor(model=tmp_path)


def test_a_prior_and_its_method_belong_together():
    with pytest.raises(ConfigError, match="belong together"):
        Reconstructor(Method.PRIOR).reconstruct(views(ball(), (0, 90)))
    with pytest.raises(ConfigError, match="belong together"):
        Reconstructor(Method.SART).reconstruct(views(ball(), (0, 90)), prior=ball())


@pytest.mark.parametrize(
    ("angles", "reason"), [((), "0 view"), ((30,), "1 view"), ((10, 10), "same way"), ((0, 5), "same way")]
)
def test_too_few_views_or_directions_are_refused(angles, reason):
    with pytest.raises(ComputeError, match=reason):
        reconstruct(views(ball(), angles), size=32)


def test_a_view_without_a_pose_is_named():
    good = views(ball(), (0, 60))
    with pytest.raises(ComputeError, match="view 2 has no pose"):
        reconstruct([*good, View(good[0].line_integrals, CARM, None)], size=32)
