"""How the CT of a configuration is read: keys in place of the options of commands."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import config
from navnode.config import VolumeSection
from navnode.errors import ConfigError
from navnode.simulation.sample_ct import load_ct
from tests.files.made import body, ct_folder, grid

CARM = "[carm]\nwidth_px = 512\nheight_px = 512\npixel_spacing_mm = [0.6, 0.6]\nsource_to_detector_mm = 1000.0\n"
CARM += "principal_point_px = [255.5, 255.5]\n"


def loaded(tmp_path, text):
    path = tmp_path / "node.toml"
    path.write_text(f'{CARM}[volume]\nct = "ct"\n{text}\n')
    return config.load(path).volume


@pytest.mark.parametrize("text", ['orientation = "LLS"', 'orientation = "XYZ"', 'units = "inch"', "series = 3"])
def test_other_choices_are_refused_by_their_key(tmp_path, text):
    with pytest.raises(ConfigError, match=f"volume.{text.split()[0]}"):
        loaded(tmp_path, text)


def test_the_keys_choose(tmp_path):
    first = ct_folder(tmp_path / "ct", body(), grid(), series="1.2.3.111")
    ct_folder(first, body() + np.int16(20), grid(), series="1.2.3.222")
    with pytest.raises(ConfigError, match=r"2 series.*series, orientation and units of \[volume\]"):
        load_ct(loaded(tmp_path, ""))
    found = load_ct(loaded(tmp_path, 'series = "222"'))
    assert np.array_equal(found.voxels, body() + 20)
    with pytest.raises(ConfigError, match="cannot be a CT"):
        load_ct(VolumeSection(ct=str(first), series="222", units="m"))
