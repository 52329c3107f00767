"""The native code where every access is checked: AddressSanitizer and UBSan find what no comparison of results does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = "build/sanitized/libnavnode_native.so"
PARTS = {
    "projector": ("tests/projector/test_projector.py", "-k", "not rtk"),
    "wire": ("tests/igtl/test_sender.py", "tests/igtl/test_messages.py", "tests/igtl/test_parts.py"),
    "counts": ("tests/registration/test_appearance.py", "tests/registration/test_quality.py", "tests/xray"),
}


def runtime() -> str | None:
    """The compiler's library of checks, which must be loaded before all others."""
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("make") is None or not (ROOT / "Makefile").is_file():
        return None
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return found if Path(found).is_file() else None


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    checks = runtime()
    if checks is None:
        pytest.skip("no compiler with AddressSanitizer here")
    subprocess.run(["make", "--silent", LIBRARY], cwd=ROOT, check=True)
    # Python itself leaves memory behind when it ends; its own allocator would hide the ends of small objects.
    found = {"LD_PRELOAD": checks, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    found["UBSAN_OPTIONS"] = "print_stacktrace=1"
    return {**os.environ, **found, "NAVNODE_NATIVE": str(ROOT / LIBRARY), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow  # every access is checked: several times as long
@pytest.mark.parametrize("part", PARTS)
def test_no_access_goes_astray(environment, part):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *PARTS[part]]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    said = (ran.stdout + ran.stderr)[-4000:]
    assert ran.returncode == 0 and "Sanitizer" not in said and "runtime error" not in said, said


@pytest.mark.slow
@pytest.mark.parametrize(
    "memory", ["np.zeros(64, np.uint8).ctypes.data", "ctypes.addressof(ctypes.create_string_buffer(64))"]
)
def test_an_access_that_goes_astray_is_found(environment, memory):
    """The build that is tried does check: a picture smaller than it is said to be is read beyond its end."""
    program = (
        "import ctypes, numpy as np; from navnode import native;"
        "library = native.library(); library.navnode_sender_copy.argtypes = [ctypes.c_void_p, ctypes.c_size_t];"
        "library.navnode_sender_copy.restype = ctypes.c_void_p;"
        f"library.navnode_sender_copy({memory}, 4096)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode != 0 and "AddressSanitizer" in ran.stderr
