"""Every risk has tests of its control, and every mark names a risk."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from navnode.errors import ConfigError
from navnode.evidence.risks import risks, verified

ROOT = Path(__file__).parent.parent
REPORT = """<testsuites><testsuite>{}</testsuite></testsuites>"""
CASE = '<testcase classname="c" name="{}"><properties><property name="risk" value="{}"/></properties>{}</testcase>'


def marked() -> set[str]:
    files = [path for path in ROOT.rglob("test_*.py") if path != Path(__file__)]
    return {name for path in files for name in re.findall(r'mark\.risk\("([^"]+)"\)', path.read_text("utf-8"))}


def test_risks_and_marks_are_the_same():
    assert marked() == {risk.id for risk in risks()}


def test_the_report_of_tests_gives_the_outcome_of_every_risk(tmp_path):
    first, second, *others = risks()
    cases = [("a", first.id, ""), ("b", first.id, "<skipped/>"), ("c", second.id, ""), ("d", second.id, "<failure/>")]
    report = tmp_path / "report.xml"
    report.write_text(REPORT.format("".join(CASE.format(*case) for case in cases)))
    found = verified(report, risks())
    assert (found[0].passed, found[0].skipped, found[0].holds) == (1, 1, True)
    assert found[1].failed == ["c.d"] and not found[1].holds
    assert not any(each.holds for each in found[2:]) and len(found) == 2 + len(others)


def test_tests_here_name_their_risks_in_pytests_report(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    mark = f'@pytest.mark.risk("{risks()[0].id}")'
    (tmp_path / "test_one.py").write_text(f"import pytest\n{mark}\ndef test_it(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    ran = subprocess.run([*command, "test_one.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout
    assert verified(tmp_path / "report.xml", risks())[0].passed == 1


@pytest.mark.parametrize("content", ["", "<a>", REPORT.format(CASE.format("a", "no such risk", ""))])
def test_what_is_no_such_report_is_refused(tmp_path, content):
    report = tmp_path / "report.xml"
    report.write_text(content)
    with pytest.raises(ConfigError, match="report"):
        verified(report, risks())
