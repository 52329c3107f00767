"""CTs in DICOM: what a header lacks, contradicts or leaves open is refused, or told in a line; never guessed."""

from __future__ import annotations

import copy
import tempfile

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from navnode.errors import ConfigError
from navnode.files.dicom_read import kept_locale
from navnode.files.volumes import ReadAs, read_volume
from tests.files.made import body, ct_folder, enhanced_ct, grid

HU, GRID = body(), grid(turn_deg=20)
N = len(HU)


def assert_same(volume):
    assert np.array_equal(volume.voxels, HU)
    assert np.allclose(volume.volume_from_index, GRID, atol=1e-4)


def frame_measures(n, frame):
    if n == 3:
        measures = Dataset()
        measures.PixelSpacing = ["2.5", "2.5"]
        frame.PixelMeasuresSequence = Sequence([measures])


def frame_turned(n, frame):
    if n == 3:
        plane = Dataset()
        plane.ImageOrientationPatient = ["1", "0", "0", "0", "0", "1"]
        frame.PlaneOrientationSequence = Sequence([plane])


def frame_without_position(n, frame):
    if n == 3:
        del frame.PlanePositionSequence


def phases(n, frame):
    if n >= 0:
        frame.FrameContentSequence[0].TemporalPositionIndex = 1 + n % 2


def stacks(n, frame):
    if n >= 0:
        frame.FrameContentSequence[0].StackID = str(1 + n % 2)


def too_many_frames(n, ds):
    if n == -1:
        ds.NumberOfFrames = N + 1


def fewer_frames(n, ds):
    if n == -1:
        ds.NumberOfFrames = N - 2


def sheared(n, frame):
    if n >= 0:
        x, y, z = (float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient)
        frame.PlanePositionSequence[0].ImagePositionPatient = [f"{x:.6g}", f"{y + 0.7 * n:.6g}", f"{z:.6g}"]


def tilted(n, ds):
    if n == -1:
        ds.GantryDetectorTilt = "17"


def density(n, ds):
    if n == -1:
        ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = "ED"


@pytest.mark.parametrize(
    ("order", "change", "reason"),
    [
        ([*range(5), *range(7, N)], None, "not evenly spaced"),
        ([*range(N), *range(N)], None, "at one place"),
        (np.repeat(range(N), 2).tolist(), None, "at one place"),
        (None, phases, "2 phases"),
        (None, stacks, "2 stacks"),
        (None, frame_measures, "pixels of different sizes"),
        (None, frame_turned, "not parallel"),
        (None, frame_without_position, "frame 4 states no ImagePositionPatient"),
        (None, too_many_frames, "states 13 frames, and describes 12"),
        (None, fewer_frames, "states 10 frames, and describes 12"),
        (None, sheared, "sheared"),
        (None, tilted, "tilted by 17 degrees"),
        (None, density, "are ED, not HU"),
    ],
)
def test_frames_that_are_no_grid_are_refused(tmp_path, order, change, reason):
    path = enhanced_ct(tmp_path / "ct.dcm", HU, GRID, order, change)
    with pytest.raises(ConfigError, match=rf"ct\.dcm.*{reason}"):
        read_volume(path)


@pytest.mark.parametrize("order", [None, [*range(0, N, 2), *range(1, N, 2)], range(N)[::-1]])
def test_frames_lie_where_they_say_whatever_their_order(tmp_path, order):
    assert_same(read_volume(enhanced_ct(tmp_path / "ct.dcm", HU, GRID, order)))
    (tmp_path / "below").mkdir()
    assert_same(read_volume(enhanced_ct(tmp_path / "below" / "ct.dcm", HU, GRID, order).parent))


def test_a_slope_of_each_frame_applies(tmp_path):
    def scaled(n, frame):
        if n >= 0:
            values = Dataset()
            values.RescaleSlope, values.RescaleIntercept, values.RescaleType = str(slopes[n]), "-1024", "HU"
            frame.PixelValueTransformationSequence = Sequence([values])

    even, slopes = HU // 2 * 2, 1 + np.arange(N) % 2
    stored = (even.astype(int) + 1024) // slopes[:, None, None]
    volume = read_volume(enhanced_ct(tmp_path / "ct.dcm", stored - 1024, GRID, change=scaled))
    assert np.array_equal(volume.voxels, even)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_slices_lie_where_they_say(tmp_path, caplog):
    assert_same(read_volume(ct_folder(tmp_path / "a", HU, GRID)))
    for keyword, value in (("PhotometricInterpretation", "MONOCHROME1"), ("WindowCenter", "40")):
        assert_same(
            read_volume(ct_folder(tmp_path / keyword, HU, GRID, lambda k, ds, n=keyword, v=value: setattr(ds, n, v)))
        )
    assert not caplog.records


def _set(keyword, value, of=3):
    def change(k, ds):
        if of in (k, None):
            setattr(ds, keyword, value)

    return change


def _smaller(k, ds):
    if k == 3:
        ds.Rows, ds.PixelData = 10, ds.PixelData[: 10 * 16 * 2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("PixelSpacing", ["2.2", "1.5"]), "pixels of different sizes"),
        (_set("ImageOrientationPatient", ["1", "0", "0", "0", "0", "1"]), "not parallel"),
        (_set("ImagePositionPatient", None), "states no ImagePositionPatient"),
        (_set("PixelSpacing", None, of=None), "states no PixelSpacing"),
        (_set("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], of=None), "not two perpendicular"),
        (lambda k, ds: k not in (4, 5), "not evenly spaced"),
        (_smaller, "different sizes"),
        (_set("GantryDetectorTilt", "-12.5", of=None), "tilted"),
        (_set("Modality", "MR", of=None), "modality MR"),
        (_set("SamplesPerPixel", 3, of=None), "3 samples a pixel"),
        (_set("PixelData", b"\0" * 100), "100 bytes of pixels"),
        (_set("RescaleSlope", "0"), "RescaleSlope is 0"),
        (_set("RescaleType", "ED"), "not HU"),
    ],
)
def test_slices_that_are_no_grid_are_refused(tmp_path, change, reason):
    folder = ct_folder(tmp_path / "series", HU, GRID, change)
    with pytest.raises(ConfigError, match=reason):
        read_volume(folder)


def test_each_slice_has_its_slope_and_bits_lie_where_they_say(tmp_path):
    def change(k, ds):
        stored = np.frombuffer(ds.PixelData, np.uint16)
        if k % 2:
            ds.RescaleSlope, ds.PixelData = "0.5", (stored * 2).astype(np.uint16).tobytes()
        else:  # 12 bits at the upper end
            ds.BitsStored, ds.HighBit, ds.PixelData = 12, 15, ((stored & 0xFFF) << 4).astype(np.uint16).tobytes()

    assert_same(read_volume(ct_folder(tmp_path / "series", HU, GRID, change)))


def test_padding_is_air_and_not_bone(tmp_path, caplog):
    def change(k, ds):
        stored = np.frombuffer(ds.PixelData, np.uint16).reshape(HU.shape[1:]).copy()
        stored[0] = 5000
        ds.PixelData, ds.PixelPaddingValue = stored.tobytes(), 5000

    volume = read_volume(ct_folder(tmp_path / "series", HU, GRID, change))
    assert (volume.voxels[:, 0] == -1000).all() and np.array_equal(volume.voxels[:, 1:], HU[:, 1:])
    assert "PixelPaddingValue" in caplog.text


def test_the_longest_series_is_taken_and_equal_ones_are_asked_for(tmp_path, caplog):
    longer, shorter = generate_uid(), generate_uid()
    ct_folder(tmp_path / "cd" / "1", HU, GRID, _set("SeriesDescription", "thorax", of=None), longer)
    ct_folder(tmp_path / "cd" / "2", HU[:9], GRID, _set("SeriesDescription", "knee", of=None), shorter)
    assert_same(read_volume(tmp_path / "cd"))
    assert "2 series; the longest is taken" in caplog.text and longer in caplog.text
    for name in ("knee", shorter, shorter[-9:]):
        assert np.array_equal(read_volume(tmp_path / "cd", ReadAs(series=name)).voxels, HU[:9])
    with pytest.raises(ConfigError, match="no series is that"):
        read_volume(tmp_path / "cd", ReadAs(series="skull"))
    third = generate_uid()
    ct_folder(tmp_path / "cd" / "3", HU, GRID, None, third)
    with pytest.raises(ConfigError, match=rf"--series.*{longer}|--series.*{third}"):
        read_volume(tmp_path / "cd")


def test_scouts_and_copies_do_not_count(tmp_path, caplog):
    series = generate_uid()
    folder = ct_folder(tmp_path / "series", HU, GRID, None, series)
    copied = next(folder.iterdir())
    (folder / "copy.dcm").write_bytes(copied.read_bytes())
    ct_folder(folder, HU[:1], grid(turn_deg=70), _set("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], of=None))
    assert_same(read_volume(folder))
    assert "copy" in caplog.text


@kept_locale()
def packed(ds, compressor):
    """The pixels of a dataset, packed by GDCM."""
    stored = np.frombuffer(ds.PixelData, np.uint16).reshape(1, ds.Rows, ds.Columns)
    with tempfile.TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(f"{folder}/packed.dcm")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(stored))
        other = dcmread(f"{folder}/packed.dcm")
    ds["PixelData"], ds.file_meta.TransferSyntaxUID = other["PixelData"], other.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("compressed", ["RLE", "JPEG2000", "JPEG"])
def test_compressed_slices_are_unpacked(tmp_path, compressed):
    def change(k, ds):
        ds.compress("1.2.840.10008.1.2.5") if compressed == "RLE" else packed(ds, compressed)

    assert_same(read_volume(ct_folder(tmp_path / "series", HU, GRID, change)))


def test_choices_that_are_none_are_refused(tmp_path):
    folder = ct_folder(tmp_path / "series", HU, GRID)
    for wrong in ("LPX", "LLS", "LP", "lps", "nform"):
        with pytest.raises(ConfigError, match="--orientation"):
            ReadAs(orientation=wrong)
    with pytest.raises(ConfigError, match="--units"):
        ReadAs(units="inch")
    with pytest.raises(ConfigError, match="states its own"):
        read_volume(folder, ReadAs(orientation="LPS"))
    with pytest.raises(ConfigError, match=r"not a 3-D volume .1 slice"):
        read_volume(next(folder.iterdir()))
    assert copy.copy(ReadAs()) == ReadAs()


def test_several_frames_of_reference_are_told(tmp_path, caplog):
    def change(k, ds):
        ds.FrameOfReferenceUID = f"1.2.3.{k > 5:d}"

    volume = read_volume(ct_folder(tmp_path / "ct", body(), grid(), change))
    assert np.array_equal(volume.voxels, body()) and "2 frames of reference" in caplog.text
