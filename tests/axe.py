"""The accessibility checker axe, for pages in a browser: ``npm install --no-save axe-core`` in the checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.browser import Browser

_AXE = Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"
needs_axe = pytest.mark.skipif(not _AXE.is_file(), reason="axe-core is not installed: npm install --no-save axe-core")


async def serious(browser: Browser) -> list[str]:
    """What axe finds serious or critical on the open page: its rules, and where."""
    await browser.evaluate(_AXE.read_text() + "; true")
    found = await browser.evaluate("axe.run().then(({ violations }) => JSON.stringify(violations))")
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']]}"
        for each in json.loads(found)
        if each["impact"] in ("serious", "critical")
    ]
