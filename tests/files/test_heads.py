"""How much of a file is read to find out what it is."""

from __future__ import annotations

import re

import pytest

from navnode.errors import ConfigError
from navnode.files import metaimage, nrrd, textheaders
from navnode.files.textheaders import head_of

ENDS = re.compile(rb"^End *= *x\r?\n", re.M)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(textheaders, "_AT_ONCE_BYTES", 100)
    monkeypatch.setattr(textheaders, "_LONGEST_LINE", 50)


@pytest.mark.parametrize("before", range(180, 210))
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_an_end_is_found_wherever_it_is(tmp_path, before, newline):
    path = tmp_path / "a"
    path.write_bytes(b"a = 1\n" + b"b" * before + b"\nEnd = x" + newline + b"more" * 1000)
    head, found = head_of(path, ENDS)
    assert found is not None and head[found.start() :].startswith(b"End = x")
    assert len(head) < 400


def test_pixels_are_not_searched_for_an_end(tmp_path):
    path = tmp_path / "a.mha"
    path.write_bytes(b"a = 1\n" + b"b" * 150 + b"\0" + b"c" * 10_000 + b"\nEnd = x\n")
    head, found = head_of(path, ENDS)
    assert found is None and len(head) <= 200
    for opened in (metaimage.open_image, nrrd.open_image):
        with pytest.raises(ConfigError, match=r"a\.mha: not a"):
            opened(path)


def test_a_file_without_an_end_is_read_once(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"a = 1\n" * 1000)
    head, found = head_of(path, ENDS)
    assert found is None and head == path.read_bytes()
