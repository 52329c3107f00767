"""Plans on disk: our own, and lines of 3D Slicer."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.plans import import_plans, read_plans, write_plans
from navnode.loop.ct import ShownCt
from navnode.types import Plan, Volume
from tests.invoke import call

CT = Volume(np.zeros((30, 40, 50), np.float32), g.rigid(None, (-25.0, -20.0, -15.0)), "ct")
PLANS = (Plan("L4 left", (1.0, 2.0, 3.0), (4.0, 5.5, -6.25)), Plan("L4 rechts ü", (0.1, 0.2, 0.3), (10.0, 10.0, 10.0)))


def markups(path, points, kind="Line", system="LPS", **more):
    listed = [
        {"id": str(n + 1), "label": label, "position": at, "positionStatus": "defined"}
        for n, (label, at) in enumerate(points)
    ]
    markup = {"type": kind, "coordinateSystem": system, "controlPoints": listed, **more}
    path.write_text(json.dumps({"markups": [markup]}))
    return path


def test_what_is_written_is_read_again_exactly(tmp_path):
    path = tmp_path / "plans.json"
    write_plans(path, PLANS, "L4 left", CT)
    kept = read_plans(path, CT)
    assert kept.plans == PLANS and kept.active == "L4 left"
    assert path.stat().st_mode & 0o777 == 0o600
    write_plans(path, PLANS[:1], "", CT)
    assert read_plans(path, CT).plans == PLANS[:1]


@pytest.mark.parametrize(
    "other",
    [
        Volume(np.zeros((30, 40, 51), np.float32), CT.volume_from_index, "other"),
        Volume(CT.voxels, g.rigid(None, (-25.0, -20.0, 35.0)), "other"),
        Volume(CT.voxels + 40, CT.volume_from_index, "other"),
    ],
    ids=["size", "place", "voxels"],
)
def test_plans_of_another_ct_are_refused(tmp_path, other):
    write_plans(tmp_path / "plans.json", PLANS, "", other)
    with pytest.raises(ConfigError, match="made in another volume"):
        read_plans(tmp_path / "plans.json", CT)


@pytest.mark.parametrize("size", [(61, 70, 83), (40, 130, 64)])
def test_a_page_that_shows_a_coarser_copy_of_the_ct_takes_plans_of_it_and_of_no_other(tmp_path, size):
    ct = Volume(np.zeros(size, np.float32), g.rigid(None, (-25.0, -20.0, -15.0)) @ np.diag([0.7, 0.9, 1.2, 1.0]), "ct")
    (update,) = ShownCt(ct).show()
    shown = update.volume
    assert shown.voxels.shape != ct.voxels.shape
    write_plans(tmp_path / "plans.json", PLANS, "", ct)
    assert import_plans(tmp_path / "plans.json", shown, coarser=True).plans == PLANS
    with pytest.raises(ConfigError, match="made in another volume"):
        read_plans(tmp_path / "plans.json", shown)
    beside = Volume(shown.voxels, g.rigid(None, (0.0, 0.0, 12.0)) @ shown.volume_from_index, "other")
    longer = Volume(np.zeros((shown.voxels.shape[0] + 5, *shown.voxels.shape[1:])), shown.volume_from_index, "longer")
    for other in (beside, longer):
        with pytest.raises(ConfigError, match="made in another volume"):
            import_plans(tmp_path / "plans.json", other, coarser=True)


@pytest.mark.parametrize(("system", "sign"), [("LPS", -1), ("RAS", 1)])
def test_a_line_is_a_plan(tmp_path, system, sign):
    path = markups(tmp_path / "L4 left.mrk.json", [("L-1", [1, 2, 3]), ("L-2", [4, 5, 6])], system=system)
    assert import_plans(path).plans == (Plan("L4 left", (sign * 1.0, sign * 2.0, 3.0), (sign * 4.0, sign * 5.0, 6.0)),)


def test_points_named_target_and_entry_are_taken_by_name(tmp_path):
    points = [("Target", [1, 2, 3]), ("entry", [4, 5, 6])]
    (plan,) = import_plans(markups(tmp_path / "p.mrk.json", points, "Fiducial", "RAS")).plans
    assert plan.entry_mm == (4.0, 5.0, 6.0) and plan.target_mm == (1.0, 2.0, 3.0)


def test_metres_are_converted(tmp_path):
    points = [("a", [0.01, 0.02, 0.03]), ("b", [0.04, 0.05, 0.06])]
    (plan,) = import_plans(markups(tmp_path / "p.mrk.json", points, system="RAS", coordinateUnits="m")).plans
    assert plan.target_mm == pytest.approx((40.0, 50.0, 60.0))


@pytest.mark.parametrize(
    ("points", "more", "said"),
    [
        ([("a", [1, 2, 3])], {}, "1 of 1"),
        ([("a", [1, 2, 3])] * 3, {}, "3 of 3"),
        ([("a", [1, 2, 3]), ("b", [1, 2, None])], {}, "three finite numbers"),
        ([("a", [1, 2, 3]), ("b", [1, 2, 4])], {"system": "IJK"}, "coordinate system"),
        ([("a", [1, 2, 3]), ("b", [1, 2, 4])], {"coordinateUnits": "furlong"}, "furlong"),
        ([("a", [1, 2, 3])] * 100_001, {}, "at most"),
    ],
)
def test_what_is_no_plan_is_named(tmp_path, points, more, said):
    path = markups(tmp_path / "p.mrk.json", points, **more)
    with pytest.raises(ConfigError, match=said):
        import_plans(path)


def test_the_command_checks_and_writes(tmp_path):
    ct = tmp_path / "ct.nii.gz"
    hu = np.full(CT.voxels.shape[::-1], -1000, np.int16)
    hu[10:40, 10:30, 8:22] = 60
    nibabel.save(nibabel.Nifti1Image(hu, CT.volume_from_index), ct)
    first = markups(tmp_path / "L4 left.mrk.json", [("a", [1, 2, 3]), ("b", [4, 5, 6])], system="RAS")
    second = markups(tmp_path / "L4 right.mrk.json", [("a", [-1, 2, 3]), ("b", [-4, 5, 6])], system="RAS")
    out = tmp_path / "plans.json"
    code, report, error = call("plan", first, second, "--volume", ct, "--out", out, "--json")
    assert code == 0, error
    assert [plan["name"] for plan in report["plans"]] == ["L4 left", "L4 right"]
    assert report["plans"][0]["length_mm"] == pytest.approx(np.sqrt(27), abs=0.01)
    assert report["plans"][0]["view"].startswith("RAO 45°, cranial 35°")
    assert read_plans(out, None).active == "L4 left"
    code, _, error = call("plan", first, "--volume", ct, "--out", out, "--json")
    assert code == 2 and "exists already" in error
    far = markups(tmp_path / "far.mrk.json", [("a", [900, 2, 3]), ("b", [4, 5, 6])], system="RAS")
    code, _, error = call("plan", first, far, "--volume", ct, "--json")
    assert code == 2 and "far.mrk.json" in error and "outside the volume" in error
    code, _, error = call("plan", first, first, "--volume", ct, "--json")
    assert code == 2 and "second plan" in error


def test_plans_made_without_a_ct_lie_nowhere_in_one(tmp_path):
    write_plans(tmp_path / "plans.json", PLANS, "", None)
    assert read_plans(tmp_path / "plans.json", None).plans == PLANS
    with pytest.raises(ConfigError, match="made without a CT"):
        read_plans(tmp_path / "plans.json", CT)


def test_the_command_keeps_the_plan_that_a_file_aims_at(tmp_path):
    ct = tmp_path / "ct.nii.gz"
    hu = np.full(CT.voxels.shape[::-1], -1000, np.int16)
    hu[10:40, 10:30, 8:22] = 60
    nibabel.save(nibabel.Nifti1Image(hu, CT.volume_from_index), ct)
    volume = Volume(hu.T.astype(np.float32), CT.volume_from_index, "ct.nii.gz")
    write_plans(tmp_path / "made.json", PLANS, PLANS[1].name, volume)
    out = tmp_path / "again.json"
    code, _, error = call("plan", tmp_path / "made.json", "--volume", ct, "--out", out, "--json")
    assert code == 0, error
    assert read_plans(out, None).active == PLANS[1].name
