"""The bill of materials is complete, valid CycloneDX, and the same each time."""

import json
from importlib import metadata

import pytest

pytest.importorskip("cyclonedx")

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from navnode.evidence.bill import bill, closure


def test_it_is_the_same_each_time_and_names_no_time():
    first = bill()
    assert first == bill() and "timestamp" not in first


def test_what_is_needed_is_in_it_with_its_version():
    document = json.loads(bill())
    versions = {each["name"]: each["version"] for each in document["components"]}
    for name in ("numpy", "aiohttp", "multidict", "msgspec", "simpleitk"):
        assert versions[name] == metadata.version(name)
    assert document["metadata"]["component"]["name"] == "navnode"
    assert set(versions) == closure().keys() - {"navnode"}
    needs = {each["ref"].split("@")[0]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert any(ref.startswith("multidict@") for ref in needs["aiohttp"])


def test_it_is_cyclonedx():
    try:
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill())
    except Exception as missing:  # the validator's own packages are an extra of the library
        pytest.skip(f"no validator: {missing}")
    assert error is None
