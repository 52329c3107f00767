"""What runs navnode for good parses, names what exists, and keeps to the rules of loopback and of least rights."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from navnode.commands import mounted
from tests.config.test_config import LAUNCH

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
UNITS = sorted(LAUNCH.glob("**/*.service"))
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())


def instructions() -> list[tuple[str, str]]:
    lines = [line.split(None, 1) for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    return [(words[0], words[1]) for words in lines]


def parse(words: list[str]) -> None:
    """Parse a call of navnode as the command would, without running it."""
    name, *rest = words
    assert name in {*mounted._OWN, *mounted._OTHERS}, f"no command {name}"
    mounted.loaded(name).make_context(name, rest)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_calls_a_command_and_publishes_nothing(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    service = COMPOSE["services"][name]
    parse(service["command"])
    assert service["network_mode"] == "host" and "ports" not in service
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]


def test_services_mount_what_is_there():
    named = set(COMPOSE["volumes"])
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in named or (ROOT / source).exists(), mount


def test_checks_of_health_are_programs():
    checks = [json.loads(DOCKERFILE.split("HEALTHCHECK", 1)[1].split("CMD", 1)[1].splitlines()[0])]
    checks += [
        service["healthcheck"]["test"][1:]
        for service in COMPOSE["services"].values()
        if "test" in service.get("healthcheck", {})
    ]
    assert len(checks) == 2
    for check in checks:
        assert check[:2] == ["python", "-c"] and ast.parse(check[2]).body


def test_the_image_runs_as_nobody_and_installs_by_hash():
    steps = instructions()
    final = steps[max(i for i, (word, _) in enumerate(steps) if word == "FROM") :]
    users = [rest for word, rest in final if word == "USER"]
    assert users and users[-1].split(":")[0].isdigit() and int(users[-1].split(":")[0]) > 0
    assert any("--require-hashes" in rest for word, rest in final if word == "RUN")
    assert [rest for word, rest in final if word == "ENTRYPOINT"] == ['["navnode"]']
    assert not [rest for word, rest in steps if word in ("ADD", "EXPOSE") or "latest" in rest]


def test_images_are_built_from_what_packages_need():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"navnode", "calibration", "launch", "pyproject.toml", "README.md", "LICENSE", "requirements.lock"} == kept
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.relative_to(LAUNCH)))
def test_a_unit_calls_a_command(unit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = shlex.split(re.search(r"^ExecStart=(.*)$", unit.read_text(), re.M)[1])
    parse(started[1:])
    assert Path(started[0]).name == "navnode"


@pytest.mark.parametrize("unit", sorted(LAUNCH.glob("system/*.service")), ids=lambda unit: unit.name)
def test_a_system_unit_may_do_little(unit):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
    )
    if "unrecognized option" in ran.stderr or "Unknown" in ran.stderr:
        pytest.skip("this systemd cannot rate files")
    assert ran.returncode == 0, ran.stdout[-400:] + ran.stderr


def test_the_public_checks_call_what_exists_on_every_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert workflow["permissions"] == {"contents": "read"}
    calls = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
    assert ".ci/run" in calls
    for call in calls:
        if call.startswith("make "):
            assert set(call.split()[1:]) <= targets


def test_forms_for_issues_ask_for_no_patients():
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        form = yaml.safe_load(path.read_text())
        assert path.name == "config.yml" or {"name", "description", "body"} <= set(form)
    assert "no data of a patient" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
