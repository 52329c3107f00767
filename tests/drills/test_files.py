"""Files are their owner's, and settings that cannot be meant are refused with their key."""

from __future__ import annotations

import os
import stat

import msgspec
import pytest

from navnode import config
from navnode.errors import ConfigError
from navnode.files.whole import write_whole
from navnode.igtl import String
from navnode.recording import Recorder
from tests.loop.theatre import configuration


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.risk("data-disclosed")
def test_recordings_and_calibrations_are_their_owners_whatever_the_umask(tmp_path, open_umask):
    recorder = Recorder(tmp_path / "sessions" / "a.mcap")
    recorder.record(String(device="S", text="x"), 1)
    recorder.stop()
    write_whole(tmp_path / "pivot.json", b"{}")
    assert mode(tmp_path / "sessions" / "a.mcap") == 0o600 and mode(tmp_path / "sessions") == 0o700
    assert mode(tmp_path / "pivot.json") == 0o600


ABSURD = [
    ("registration", "valid_sigma_mm", 1e9),
    ("registration", "i0", 1e308),
    ("registration", "confirm_frames", 0),
    ("registration", "invalid_after_s", 1e9),
    ("carm", "source_to_detector_mm", 1e12),
    ("carm", "pixel_spacing_mm", [1e6, 1e6]),
    ("carm", "principal_point_px", [1e9, 0.0]),
    ("trust", "tracker_range_mm", -1.0),
    ("trust", "motion_mm", 1e6),
    ("calibration", "image_lag_ms", 1e12),
    ("reconstruction", "budget_ms", 1e12),
    ("reconstruction", "min_angle_deg", float("nan")),
    ("dose", "ct_msv", float("inf")),
    ("console", "max_rate_hz", float("nan")),
]


@pytest.mark.risk("implausible-setting")
@pytest.mark.parametrize(("section", "key", "value"), ABSURD, ids=lambda value: str(value))
def test_a_setting_that_cannot_be_meant_is_refused_by_its_key(section, key, value):
    data = msgspec.to_builtins(configuration())
    data[section][key] = value
    with pytest.raises(ConfigError, match=f"{section}.*{key}|{key}"):
        config.parse(data, "test")


@pytest.mark.risk("implausible-setting")
def test_every_number_of_the_configuration_has_a_range():
    """A number without bounds takes anything; the few that are held elsewhere are named."""
    held = {  # by CArmSection and Grid, by being a rotation, by a list of choices
        "source_to_isocentre_mm",
        "width_px",
        "height_px",
        "source_to_detector_mm",
        "size",
        "spacing_mm",
        "views",
        "max_views",
        "size_px",
    }
    loose: list[str] = []

    def walk(kind: msgspec.inspect.Type, at: str) -> None:
        if isinstance(kind, msgspec.inspect.StructType):
            for field in kind.fields:
                walk(field.type, f"{at}.{field.name}")
        elif isinstance(kind, msgspec.inspect.UnionType):
            for part in kind.types:
                walk(part, at)
        elif isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
            above = kind.le if kind.le is not None else kind.lt
            below = kind.ge if kind.ge is not None else kind.gt
            if (above is None or below is None) and at.rsplit(".", 1)[-1] not in held:
                loose.append(at)

    walk(msgspec.inspect.type_info(config.Config), "")
    assert loose == []
