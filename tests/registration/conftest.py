"""The drawn torso, for all tests of the room."""

from __future__ import annotations

import pytest

from navnode.files.volumes import read_volume
from tests.registration.cases import Case


@pytest.fixture(scope="package")
def torso(procedural_ct) -> Case:
    return Case(read_volume(procedural_ct))
