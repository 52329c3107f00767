"""docs/ten-minutes.md, followed to the letter: from a CT to a registered X-ray, within ten minutes."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.documents import followed

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent.parent


def script() -> str:
    """All commands of the document, in their order: what is indented by four, outside of lists and fences."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / "docs/ten-minutes.md").read_text(), flags=re.M | re.S)
    return textwrap.dedent("\n".join(line for line in text.splitlines() if line.startswith("    ")))


def test_the_document_has_its_commands():
    lines = script().splitlines()
    for command in ("sample", "project", "register"):
        assert any(line.startswith(f"navnode {command} ") for line in lines)
    assert sum(line == "END" for line in lines) == 2


def test_the_document_to_the_letter(tmp_path, procedural_ct):
    shutil.copy(procedural_ct, tmp_path / "my_ct.nii.gz")
    own = {"navnode": f"{sys.executable} -m navnode", "python3": sys.executable}
    began_s = time.monotonic()
    told_all = followed(
        tmp_path, script(), {name: f'#!/bin/sh\nexec {words} "$@"\n' for name, words in own.items()}, 600
    )
    assert time.monotonic() - began_s < 600
    assert re.findall(r"│ (\d) +│ (\w+) ", told_all) == [("0", "VALID"), ("1", "VALID"), ("2", "VALID")]
    told = re.search(r"VALID: the source is ([\d.]+) mm from where it was", told_all)
    assert told and float(told[1]) < 2.0
    mine = tmp_path / "mine"
    assert len(json.loads((mine / "drr/views.json").read_text())["views"]) == 3
    yellow = np.array([60, 220, 255])
    for path in [*sorted((mine / "overlays").glob("*.png")), mine / "own-overlays/overlay_000.png"]:
        picture = cv2.imread(str(path))
        assert picture.shape == (512, 1024, 3)
        drawn = (picture == yellow).all(axis=-1)
        assert drawn[:, :512].mean() > 0.01 and not drawn[:, 512:].any(), path.name
    assert len(list((mine / "overlays").glob("*.png"))) == 3
