"""requirements.lock names every dependency, in a version that pyproject.toml allows, with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def locked() -> dict[str, tuple[str, int]]:
    """Package -> version, and how many files of it are known by their hash."""
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text()):
        if match := re.match(r"([a-z0-9._-]+)==([^\s;]+)", entry):
            found[canonicalize_name(match[1])] = match[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
    return found


def test_every_dependency_is_locked_in_a_version_that_is_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = locked()
    for given in map(Requirement, project["dependencies"]):
        version, _ = versions[canonicalize_name(given.name)]
        assert given.specifier.contains(version, prereleases=True), given


def test_every_package_has_hashes_and_no_source_is_named():
    assert all(hashes > 0 for _, hashes in locked().values())
    assert not re.search(r"https?://|--index-url|--find-links", (ROOT / "requirements.lock").read_text())
