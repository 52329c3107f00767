"""A C-arm has the same limits wherever it is read."""

import json

import numpy as np
import pytest

from calibration import documents, exchange, inputs
from navnode import config
from navnode.errors import ConfigError
from navnode.files.views import read_views
from navnode.geometry import carm_document, carm_of
from navnode.types import CArm

CARM = carm_document(CArm(512, 384, (0.6, 0.5), 1000.0, (250.0, 190.0)))
WRONG = [
    ({"width_px": 7}, "width_px and height_px must be 8 to 8192"),
    ({"height_px": 8193}, "width_px and height_px must be 8 to 8192"),
    ({"pixel_spacing_mm": [0.6, 0.0]}, "must be positive"),
    ({"source_to_detector_mm": -1.0}, "must be positive"),
]


def of_an_artifact(carm, folder):
    carm_of(carm)


def of_a_configuration(carm, folder):
    config.parse({"carm": {key: value for key, value in carm.items() if key != "schema"}}, "node.toml")


def of_views(carm, folder):
    (folder / "views.json").write_text(json.dumps({"schema": "navnode/views/1", "carm": carm, "views": [{}]}))
    read_views(folder / "views.json")


def of_a_calibration(carm, folder):
    (folder / "carm.json").write_text(json.dumps(carm))
    documents.carm(folder / "carm.json", inputs.Files())


def of_another_program(carm, folder):
    (su, sv), (u, v), distance = carm["pixel_spacing_mm"], carm["principal_point_px"], carm["source_to_detector_mm"]
    camera = np.array([[distance / su, 0, u], [0, distance / sv if sv else 1, v], [0, 0, 1]])
    content = {
        "image_width": carm["width_px"],
        "image_height": carm["height_px"],
        "pixel_spacing_mm": [su, sv],
        "camera_matrix": {"data": camera.ravel().tolist()},
    }
    (folder / "camera.yaml").write_text(json.dumps(content))
    exchange.read(folder / "camera.yaml")


READERS = [of_an_artifact, of_a_configuration, of_views, of_a_calibration, of_another_program]


@pytest.mark.parametrize("read", READERS)
def test_what_no_carm_can_be_is_refused(read, tmp_path):
    read(CARM, tmp_path)
    for edge in (8, 8192):
        read({**CARM, "width_px": edge}, tmp_path)
    for change, reason in WRONG:
        with pytest.raises(ConfigError, match=reason):
            read({**CARM, **change}, tmp_path)


def test_numbers_must_be_finite():
    with pytest.raises(ConfigError, match="finite"):
        carm_of({**CARM, "principal_point_px": [float("nan"), 0.0]})
