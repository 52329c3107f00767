"""The benchmark on real X-rays of bones: outlines against edges, and a folder made here."""

from __future__ import annotations

import json

import cv2
import nibabel
import numpy as np
import pytest

from navnode.bench import real
from navnode.errors import ConfigError
from navnode.geometry import carm_document
from tests.registration.bones import CARM, bone, taken


@pytest.fixture(scope="module")
def disc():
    v, u = np.mgrid[:200, :200]
    line = np.where(np.hypot(u - 100, v - 100) < 40, 1.0, 0.0).astype(np.float32)
    light = cv2.GaussianBlur(200 * np.exp(-line), (0, 0), 1.0)
    return line, np.random.default_rng(0).poisson(light).astype(np.uint8)


@pytest.mark.parametrize("off_px", [0, 4, 8])
def test_an_outline_is_as_far_off_as_it_was_moved(disc, off_px):
    line, counts = disc
    v, u = np.mgrid[:200, :200]
    grown = np.where(np.hypot(u - 100, v - 100) < 40 + off_px, 1.0, 0.0).astype(np.float32)
    assert real.outline_px(grown, counts, np.zeros(line.shape, bool)) == pytest.approx(off_px, abs=1.6)


def test_where_there_is_no_edge_the_distance_is_the_reach(disc):
    line, _ = disc
    plain = np.full(line.shape, 120, np.uint8)
    assert real.outline_px(line, plain, np.zeros(line.shape, bool)) == 20
    assert np.isnan(real.outline_px(line, plain, np.ones(line.shape, bool)))


def test_a_bone_outside_has_no_outline(disc):
    assert np.isnan(real.outline_px(np.zeros((200, 200), np.float32), disc[1], np.zeros((200, 200), bool)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, volume = tmp_path_factory.mktemp("real"), bone(1, (0.0, 0.0, 0.0))
    nibabel.save(
        nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), volume.volume_from_index), folder / "radius.nii.gz"
    )
    views = []
    for degrees in (0.0, 80.0):
        shot = taken([volume], [np.eye(4)], degrees, grey=True)
        cv2.imwrite(str(folder / f"{degrees:.0f}.png"), shot.counts)
        views.append({"image": f"{degrees:.0f}.png", "volume_from_carm": shot.world_from_carm.tolist()})
    document = {"schema": "navnode/views/1", "carm": carm_document(CARM), "views": views}
    (folder / "views_1.json").write_text(json.dumps(document))
    poses = {"reference": {"1": {"radius": {"world_from_body": np.eye(4).tolist()}}}}
    (folder / "reference_poses.json").write_text(json.dumps(poses))
    return folder


@pytest.mark.slow
def test_a_bone_made_here_is_found_from_nowhere_and_from_starts(folder):
    shares: list[float] = []
    (row,) = real.run(folder, ["radius"], 2, 1, 0, shares.append).bones
    assert shares[-1] == 1.0 and shares == sorted(shares)
    assert row.status == "VALID", row.reason
    assert row.reference_mm < 0.3 and row.wrong_valid.hits == 0 and row.ends_together.of == 2
    assert max(row.outline_px) <= 2.5 and row.one_view_across_mm.median < 0.5
    assert row.one_view_status.get("VALID", 0) == 0


@pytest.mark.parametrize(
    ("bones", "said"), [(["ulna"], "no such file"), (["../radius"], "the name of a file"), (["radius"], "reference")]
)
def test_a_folder_that_lacks_something_is_named(folder, tmp_path, bones, said):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    if said == "reference":
        (broken / "reference_poses.json").write_text("{}")
    with pytest.raises(ConfigError, match=said):
        real.run(broken, bones, 1, 1, 0, lambda share: None)
