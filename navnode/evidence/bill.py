"""The software bill of materials, CycloneDX 1.6: navnode and every installed package that it needs.

Its software of unknown provenance, in the words of IEC 62304. The same installation gives the same bytes: no time is in
it, and its serial number is that of its contents.
"""

from __future__ import annotations

import json
import uuid
from importlib import metadata

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from navnode.errors import ConfigError

__all__ = ["bill", "closure"]

_NAMESPACE = uuid.UUID("6f0b7a52-7d0d-5b53-9d43-0f2f6b0f3a0e")
_LONGEST = 64
"""Of a licence's name: some packages state its whole text."""


def closure(name: str = "navnode") -> dict[str, set[str]]:
    """Every installed package that one needs, itself included, with the names of what each needs.

    Those of extras are in it where they are installed, as nothing tells which extras were asked for.

    Raises:
        ConfigError: the package itself is not installed.
    """
    found: dict[str, set[str]] = {}
    missing: list[str] = [canonicalize_name(name)]
    while missing:
        current = missing.pop()
        if current in found:
            continue
        try:
            required = metadata.requires(current) or []
        except metadata.PackageNotFoundError as error:
            raise ConfigError(f"{current} is not installed as a package") from error
        own = current == canonicalize_name(name)
        needs: set[str] = {each for text in required if (each := _needed(text, own))}
        found[current] = needs
        missing += sorted(needs)
    return found


def bill() -> str:
    """The bill as JSON.

    Raises:
        ConfigError: navnode is not installed as a package.
    """
    needed = closure()
    components = {name: _component(name) for name in sorted(needed)}
    bom = Bom(components=[component for name, component in components.items() if name != "navnode"])
    bom.metadata.component = components["navnode"]
    bom.metadata.tools.components.clear()
    for name, needs in needed.items():
        bom.register_dependency(components[name], [components[each] for each in sorted(needs)])
    contents = "\n".join(f"{name} {component.version} {sorted(needed[name])}" for name, component in components.items())
    bom.serial_number = uuid.uuid5(_NAMESPACE, contents)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]  # the library states the present time; the format does not want one
    return json.dumps(document, indent=1, sort_keys=True)


def _needed(text: str, extras: bool) -> str | None:
    """Canonical name of a requirement that is installed and applies here."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    name = canonicalize_name(requirement.name)
    of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
    if of_extra and not extras:
        return None
    if requirement.marker is not None and not of_extra and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return name


def _component(name: str) -> Component:
    version = metadata.version(name)
    licences = [text] if (text := _licence(metadata.metadata(name))) else []
    return Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION if name == "navnode" else ComponentType.LIBRARY,
        bom_ref=f"{name}@{version}",
        purl=PackageURL("pypi", None, name, version),
        licenses=[LicenseFactory().make_from_string(text) for text in licences],
    )


def _licence(about: metadata.PackageMetadata) -> str:
    """The licence that a package states: its expression, its short name, or its classifier."""
    for key in ("License-Expression", "License"):
        for text in about.get_all(key) or []:
            if text and len(text) <= _LONGEST and "\n" not in text and text.upper() != "UNKNOWN":
                return str(text)
    classified = [text for text in about.get_all("Classifier") or [] if text.startswith("License ::")]
    return classified[0].rpartition(" :: ")[2] if classified else ""
