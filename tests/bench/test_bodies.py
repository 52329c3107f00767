"""The benchmark of bones that move: a phantom's are found, and what is no bone is refused."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from navnode.bench import bodies, rtk
from navnode.commands import bench as commands
from navnode.errors import ConfigError
from tests.registration.bones import patient

pytestmark = pytest.mark.skipif(not rtk.available(), reason="RTK is not installed")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    ct, labels = patient((1, 2))
    folder = tmp_path_factory.mktemp("bones")
    numbers = sum(((n + 1) * label for n, label in enumerate(labels)), np.zeros(ct.voxels.shape, np.uint8))
    numbers[50:54, 20:24, 50:54] = 9  # soft tissue
    for name, voxels in (("ct", ct.voxels.astype(np.int16)), ("labels", numbers.astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), ct.volume_from_index), folder / f"{name}.nii.gz")
    return folder / "ct.nii.gz", folder / "labels.nii.gz"


@pytest.mark.slow  # tests/registration and tests/loop find and follow them, too
def test_a_phantoms_bones_are_found_and_followed(files):
    shares: list[float] = []
    report = bodies.run(*files, [1], 2, 2, 0, shares.append)
    assert report.bodies == ["label-1"] and report.cases == 2 and shares[-1] == pytest.approx(1.0)
    assert report.found.right.hits >= 1 and report.found.wrong_valid.hits == 0
    assert report.followed.across_mm.median < 0.5 and report.followed.wrong_valid.hits == 0
    assert report.followed.frames_per_s > 0 and report.found.ms.median > 0
    assert json.loads(json.dumps(report.found.right.rate)) <= 1


def test_all_bones_of_a_map_are_taken_and_soft_tissue_is_not(files):
    from navnode.files.bodies import labelled
    from navnode.files.volumes import read_volume

    chosen, found = bodies._bones(labelled(files[1], read_volume(files[0])), [], 1)
    assert [file.name for file in chosen] == [body.name for body in found] == ["label-1", "label-2"]


def test_a_label_without_bone_is_refused(files):
    with pytest.raises(ConfigError):
        bodies.run(*files, [9], 1, 1, 0, lambda share: None)


def test_it_is_a_command():
    assert any(command.name == "bodies" for command in commands.bench.registered_commands)
