"""Changed files of every kind that is read: each is refused by an error that names it, or read as another reader reads
it, or what was taken by rule is told. Nothing else happens, and nothing takes long.

NAVNODE_FUZZ_FILES and NAVNODE_FUZZ_SEED choose more cases, and others: 130 of each kind are over 5000.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from navnode.errors import NavError
from navnode.files.dicom_read import kept_locale
from tests.fuzz import kinds, texts
from tests.fuzz.kinds import Kind
from tests.fuzz.mutations import damaged, files_of, flipped, shortened

CASES = int(os.environ.get("NAVNODE_FUZZ_FILES", "20"))
"""Of each kind."""
SEED = int(os.environ.get("NAVNODE_FUZZ_SEED", "1"))
LONGEST_S = 2.0
KINDS = (
    *kinds.VOLUMES,
    *kinds.DICOM,
    *kinds.PICTURES,
    *texts.SEQUENCES,
    *texts.TRANSFORMS,
    *texts.CAMERAS,
    *texts.SURFACES,
    *texts.DOCUMENTS,
)


class _Told(logging.Handler):
    """Counts the lines that tell what was taken by rule."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def same(found: Any, other: Any) -> bool:
    """Whether two readings are equal, to the precision of headers' texts."""
    if isinstance(found, dict):
        return isinstance(other, dict) and found.keys() == other.keys() and all(same(found[k], other[k]) for k in found)
    if found is None or other is None or isinstance(found, str | bytes) or isinstance(other, str | bytes):
        return bool(found == other)
    if isinstance(found, list | tuple) and any(x is None or isinstance(x, str | bytes | dict | tuple) for x in found):
        return len(found) == len(other) and all(map(same, found, other))
    a, b = np.asarray(found, np.float64), np.asarray(other, np.float64)
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=2e-5, atol=2e-3, equal_nan=True))


def wrong(kind: Kind, path: Path, usual: Any, told: _Told) -> str:
    """What is wrong with what happens to a file; '': nothing. 'refused': that, which is right."""
    told.lines.clear()
    started, busy = time.perf_counter(), time.process_time()
    try:
        found = kind.read(path)
    except NavError as error:
        found = error
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if min(time.perf_counter() - started, time.process_time() - busy) > LONGEST_S:
        return f"took {time.perf_counter() - started:.1f} s"
    if isinstance(found, NavError):
        named = any(each.name in str(found) for each in [path, *files_of(path)])
        return "refused" if named and "\n" not in str(found) else f"does not name the file in a line: {found}"
    if told.lines:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = kind.truth(path)
    except Exception as error:
        return "" if same(found, usual) else f"read, though the other reader cannot ({str(error)[-160:]})"
    if same(found, other):
        return ""
    return f"read as {_differing(found, other)}"


def _differing(found: Any, other: Any) -> str:
    for key in found.keys() | other.keys():
        if key not in found or key not in other or not same(found[key], other[key]):
            return f"{key} {found.get(key)!s:.300}, not {other.get(key)!s:.300}"
    return "?"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_changed_files_are_refused_or_read_right(tmp_path, kind):
    path, rng = tmp_path / kind.name, np.random.default_rng(SEED)
    cases = max(2, round(CASES * kind.share))
    told, logger = _Told(), logging.getLogger()
    logger.addHandler(told)
    try:
        with kept_locale():
            kind.write(path)
            usual = kind.read(path)
            assert not told.lines, told.lines
            assert same(usual, kind.truth(path)), _differing(usual, kind.truth(path))
            files = {each: each.read_bytes() for each in files_of(path)}
            changes = (damaged, damaged, flipped, shortened, *kind.changes * 4)
            refused, problems = 0, []
            for case in range(cases):
                which = list(files)[int(rng.integers(0, len(files)))]
                change = changes[int(rng.integers(0, len(changes)))]
                content = change(files[which], rng)
                which.write_bytes(content)
                problem = wrong(kind, path, usual, told)
                which.write_bytes(files[which])
                refused += problem == "refused"
                if problem not in ("", "refused"):
                    problems.append(f"case {case} of seed {SEED}: {problem}")
                    if keep := os.environ.get("NAVNODE_FUZZ_KEEP"):
                        Path(keep, f"{case}-{which.name}").write_bytes(content)
    finally:
        logger.removeHandler(told)
    print(f"{kind.name}: {cases} cases, {refused} refused")
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:12])
    assert refused
