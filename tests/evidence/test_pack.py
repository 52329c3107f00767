"""The record as a whole: what ran, what failed, what drifts, on one page and under one signature."""

import json

import numpy as np
import pytest

from navnode.evidence import pack, seal, steps
from navnode.evidence.risks import risks
from navnode.evidence.steps import Step
from tests.evidence.test_charts import TIP, kept
from tests.invoke import call

GOOD = {"frames": 90, "status_counts": {"VALID": 5}, "tre_mm": {"median": 0.2}, "latency_ms": {"p50": 21.0}}


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Steps that print what they are given to, in the folder of the evidence."""

    def given(**reports):
        def made(junit, traps):
            found = []
            for name, report in reports.items():
                (tmp_path / f"{name}_step.py").write_text(f"print({json.dumps(json.dumps(report))})")
                found.append(Step(name=name, title=f"Step {name}", command=[f"{name}_step"]))
            return [*found, Step(name="risks", title="Tests", command=["none"], why_not="no sources")]

        monkeypatch.setattr(pack, "steps", made)

    monkeypatch.setattr(steps, "checkout", lambda: tmp_path)
    return given


def make(tmp_path, *options):
    out = tmp_path / "evidence"
    code, told, error = call("evidence", "--out", out, "--key", tmp_path / "key.pem", *options, "--json")
    return code, told, (out / "evidence.html").read_text(), error


def test_what_ran_is_on_a_page_that_loads_nothing_and_is_signed(quick, tmp_path):
    quick(loop=GOOD)
    for number in range(8):
        kept(tmp_path / "cases", number, TIP)
    code, told, page, error = make(tmp_path, "--calibrations", tmp_path / "cases")
    assert code == 3 and told["outcome"] == "incomplete" and not told["passed"] and not told["problems"], error
    assert [each["outcome"] for each in told["steps"]] == ["passed", "not run"]
    assert told["lacking"][0] == "Tests: not run (no sources)" and len(told["lacking"]) == 1 + len(risks())
    assert (
        f"Incomplete: nothing failed, {1 + len(risks())} not verified" in page
        and "90 X-rays; TRE median 0.20 mm, latency median 21 ms" in page
    )
    assert "pivot drill" in page and "no drift" in page and "not run (no sources)" in page
    assert not any(word in page for word in ("http://", "https://", "src=", "<script"))
    assert seal.broken(tmp_path / "evidence") == []
    code, told, _ = call("evidence", "--check", tmp_path / "evidence", "--json")
    assert code == 0 and told["problems"] == [] and told["outcome"] == "incomplete"
    (tmp_path / "evidence" / "evidence.html").write_text(page.replace("90 X-rays", "99 X-rays"))
    code, told, _ = call("evidence", "--check", tmp_path / "evidence", "--json")
    assert code == 1 and told["problems"] == ["evidence.html: changed"]


def test_a_step_that_fails_and_a_calibration_that_drifts_fail_the_record(quick, tmp_path):
    pytest.importorskip("matplotlib")
    quick(loop=GOOD | {"tre_mm": {"median": 1.4}})
    for number in range(12):
        kept(tmp_path / "cases", number, TIP + np.array([0.3 * (number >= 8), 0, 0]), "<b>drill</b>")
    code, told, page, _ = make(tmp_path, "--calibrations", tmp_path / "cases")
    assert code == 1 and not told["passed"]
    assert told["problems"] == ["Step loop: median error 1.40 mm", "calibration pivot <b>drill</b>: drift"]
    assert f"2 failed; {1 + len(risks())} not verified" in page and "DRIFT" in page and "<b>drill" not in page
    assert page.count("limit of one") and page.count("alarm")
    assert seal.broken(tmp_path / "evidence") == [], "a record that failed is signed as such"


def test_only_what_all_ran_has_passed(quick, tmp_path, monkeypatch):
    cases = "".join(
        f'<testcase classname="t" name="{risk.id}"><properties><property name="risk" value="{risk.id}"/></properties>'
        "</testcase>"
        for risk in risks()
    )

    def made(junit, traps):
        (tmp_path / "risks_step.py").write_text(
            f"open({str(junit)!r}, 'w').write({f'<testsuite>{cases}</testsuite>'!r})"
        )
        return [Step(name="risks", title="Tests", command=["risks_step"])]

    monkeypatch.setattr(pack, "steps", made)
    code, told, page, error = make(tmp_path)
    assert code == 0 and told["outcome"] == "passed" and told["passed"] and not told["lacking"], error
    assert ">Passed</p>" in page and seal.signed(tmp_path / "evidence").passed


def test_nothing_that_ran_is_no_success(quick, tmp_path, monkeypatch):
    quick(loop=GOOD)
    monkeypatch.setattr(pack, "_LEFT_FOR_THE_REST_S", 600.0)
    code, told, page, _ = make(tmp_path, "--minutes", "1")
    assert code == 3 and [each["outcome"] for each in told["steps"]] == ["not run", "not run"]
    assert seal.signed(tmp_path / "evidence").outcome == "incomplete" and "Incomplete" in page


def test_a_folder_that_is_there_is_not_written_over(quick, tmp_path):
    quick(loop=GOOD)
    (tmp_path / "evidence").mkdir()
    code, _, error = call("evidence", "--out", tmp_path / "evidence", "--key", tmp_path / "key.pem")
    assert code == 2 and "must be a new folder" in error and not list((tmp_path / "evidence").iterdir())
