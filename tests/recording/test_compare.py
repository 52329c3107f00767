"""Outputs compared: what differs is told by topic and field."""

from __future__ import annotations

import json

import numpy as np
import pytest

from navnode.errors import ConfigError, RecordingError
from navnode.recording import compare


def output(topic, cause, document, time_ns=0):
    return compare.RecordedOutput(topic, cause, time_ns, json.dumps(document).encode())


def tool(n, pose, status="VALID"):
    return output("out/tool/A", n, {"volume_from_tool": pose, "validity": {"status": status, "source_time_ns": n}})


def test_differences_are_told_by_topic_and_field():
    pose = np.eye(4).tolist()
    moved = [row[:] for row in pose]
    moved[0][3] = 0.04
    was = [tool(n, pose) for n in (1, 2, 3)]
    now = [tool(n, moved) for n in (1, 2)]
    found = compare.compare(was, now, by_cause=True)
    assert not found.same and found.missing == {"out/tool/A": 1} and not found.different
    exact = compare.compare(was, now, by_cause=True, tolerances={}, ignored=())
    assert exact.different == {"out/tool/A": 2} and "translation off by 0.04" in exact.first.what
    worse = [tool(1, None, "INVALID")]
    assert "volume_from_tool" in compare.compare(was[:1], worse, by_cause=True).first.what
    again = compare.compare(was[:1], [*was[:1], *was[:1]], by_cause=False)
    assert again.extra == {"out/tool/A": 1}
    with pytest.raises(RecordingError, match="no outputs"):
        compare.compare([], now, by_cause=True)


def test_fields_that_no_output_has_are_named():
    compare.refuse_unknown(["reason", "similarity", "translation", "sha256", "latency_ms"], "--ignore")
    with pytest.raises(ConfigError, match=r"--ignore similarty: no output .* \(did you mean 'similarity'\?\)"):
        compare.refuse_unknown(["reason", "similarty"], "--ignore")
