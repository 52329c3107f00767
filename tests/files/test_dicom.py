"""A series that other programs read where it was, and that says what it is."""

import contextlib
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from navnode.errors import ConfigError
from navnode.files.dicom import write_series
from navnode.files.dicom_read import open_dataset
from navnode.files.volumes import read_volume
from navnode.projector.grids import centered_grid
from navnode.types import Volume


def _volume() -> Volume:
    rng = np.random.default_rng(0)
    hu = np.full((12, 20, 16), -1000.0, np.float32)
    hu[3:9, 5:15, 4:12] = rng.uniform(-100, 1800, (6, 10, 8))
    return Volume(hu, centered_grid((16, 20, 12), 2.5, np.array([10.0, -20.0, 300.0])))


def test_a_series_is_read_back_where_it_was(tmp_path):
    made = _volume()
    assert write_series(made, tmp_path / "series", how="4 views.") == 12
    back = read_volume(tmp_path / "series")
    # Readers order a series and its rows as they like; what is at a point must be the same.
    index_from_index = np.linalg.inv(made.volume_from_index) @ back.volume_from_index
    k, j, i = np.indices(back.voxels.shape).reshape(3, -1)
    x, y, z = np.round((index_from_index @ np.stack([i, j, k, np.ones_like(i)]))[:3]).astype(int)
    assert np.abs(back.voxels.ravel() - np.round(made.voxels)[z, y, x]).max() == 0
    assert np.allclose(np.sort(back.center_mm), np.sort(made.center_mm), atol=1e-3)


ROOT = Path(__file__).parents[2]
_AS_BEFORE = """
import locale, sys
from pathlib import Path
from navnode.files.dicom import write_series
from navnode.files.dicom_read import open_dataset
from navnode.files.volumes import read_volume
from tests.files.test_dicom import _volume
locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
before = locale.setlocale(locale.LC_ALL)
write_series(_volume(), Path(sys.argv[1]) / "series", how="")
assert locale.setlocale(locale.LC_ALL) == before, "writing"
read_volume(Path(sys.argv[1]) / "series")
assert locale.setlocale(locale.LC_ALL) == before, "reading"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="where the locale C.UTF-8 is")
def test_the_locale_of_the_process_stays(tmp_path):
    """In a process of its own, since GDCM sets it the first time only."""
    program = [sys.executable, "-c", _AS_BEFORE, str(tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "series").iterdir())


def test_a_series_says_that_it_is_derived_and_whose_it_is_not(tmp_path):
    write_series(_volume(), tmp_path, how="learned, 4 views over 90 degrees.")
    files = sorted(tmp_path.iterdir())
    reader = sitk.ImageFileReader()
    series, instances = set(), set()
    for file in files:
        reader.SetFileName(str(file))
        reader.LoadPrivateTagsOn()
        reader.ReadImageInformation()
        assert reader.GetMetaData("0008|0008").startswith("DERIVED\\SECONDARY")
        assert "NOT FOR DIAGNOSIS" in reader.GetMetaData("0008|103e")
        assert "4 views over 90 degrees" in reader.GetMetaData("0008|2111")
        assert reader.GetMetaData("0008|0060").strip() == "CT"
        assert not reader.HasMetaDataKey("0010|0010") or not reader.GetMetaData("0010|0010").strip()
        series.add(reader.GetMetaData("0020|000e"))
        instances.add(reader.GetMetaData("0008|0018"))
    assert len(series) == 1 and len(instances) == len(files) == 12


def test_a_series_does_not_mix_with_other_files(tmp_path):
    (tmp_path / "something").touch()
    with pytest.raises(ConfigError, match="an empty folder"):
        write_series(_volume(), tmp_path, how="")


def _element(group: int, element: int, kind: bytes, stated: int, content: bytes) -> bytes:
    """One of the kinds with long lengths, explicit and little-endian."""
    return struct.pack("<HH2sHI", group, element, kind, 0, stated) + content


@pytest.mark.parametrize("kind", [b"OB", b"UT", b"UN"])
@pytest.mark.parametrize("tags", [None, ["Rows"]])
def test_an_element_that_states_gigabytes_takes_no_memory(tmp_path, kind, tags):
    path = tmp_path / "long.dcm"
    path.write_bytes(bytes(128) + b"DICM" + _element(8, 0x11, kind, 0xFFFF_FF00, bytes(200)))
    tracemalloc.start()
    try:
        with contextlib.suppress(ConfigError):
            open_dataset(path, tags)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_values_that_become_objects_are_bounded_before_they_do(tmp_path):
    path = tmp_path / "many.dcm"
    path.write_bytes(bytes(128) + b"DICM" + _element(8, 0x119, b"UC", 8 << 20, b"1\\" * (4 << 20)))
    with pytest.raises(ConfigError, match=r"8 MiB of values"):
        open_dataset(path)
