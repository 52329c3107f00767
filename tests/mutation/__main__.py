"""Makes small mistakes in the code, one at a time, and counts those that its tests notice.

python -m tests.mutation --count 40 --minutes 10 --seed 1 quality codecs
"""

from __future__ import annotations

import argparse
import ast
import difflib
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import use_db

ROOT = Path(__file__).resolve().parents[2]
_CODECS = ("tests/igtl/test_messages.py", "tests/igtl/test_vectors.py", "tests/igtl/test_conventions.py")
TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "quality": {"navnode/registration/quality.py": ("tests/registration/test_quality.py",)},
    "codecs": {f"navnode/igtl/{name}.py": _CODECS for name in ("contents", "framing", "messages", "wire")},
    "loop": {
        "navnode/loop/bus.py": ("tests/loop/test_bus.py", "tests/loop/test_topics.py"),
        "navnode/loop/calibrations.py": ("tests/loop/test_calibrations.py",),
        "navnode/loop/clocks.py": ("tests/loop/test_clock_relations.py", "tests/loop/test_clocks.py"),
        "navnode/loop/continuity.py": (
            "tests/loop/test_continuity.py",
            "tests/loop/test_markers.py",
            "tests/loop/test_frames.py",
        ),
        "navnode/loop/poses.py": ("tests/loop/test_poses.py", "tests/loop/test_markers.py"),
        "navnode/loop/topics.py": ("tests/loop/test_topics.py", "tests/loop/test_bus.py"),
        "navnode/loop/views.py": ("tests/loop/test_views.py",),
    },
}
"""Group -> module -> the tests that should notice a mistake in it."""
SURVIVED, KILLED, TIMED_OUT = "survived", "killed", "timed out"


@dataclass(frozen=True)
class Mutant:
    """A module with one mistake."""

    module: str
    operator: str
    line: int
    source: str

    def diff(self) -> str:
        """What was changed, as one line of before and one of after for each line that differs."""
        before = (ROOT / self.module).read_text().splitlines()
        lines = difflib.unified_diff(before, self.source.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---"))


def meaning(source: str) -> str:
    """The program without annotations of functions, which nothing reads at run time here; '' if it is none."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # an operator in the place of ``**`` before arguments
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    return ast.dump(tree)


def mutants(modules: Iterable[str], rng: random.Random) -> Iterator[Mutant]:
    """Mutants of modules in random order, each a different program; made one by one, as all of them take minutes."""
    originals = {module: (ROOT / module).read_text() for module in modules}
    specs = []
    for module in originals:
        with tempfile.TemporaryDirectory() as folder, use_db(str(Path(folder) / "mutants.sqlite")) as db:
            init([ROOT / module], db, {})
            found = [item.mutations[0] for item in db.work_items]
        specs += [(module, spec) for spec in sorted(found, key=lambda spec: (spec.operator_name, spec.occurrence))]
    rng.shuffle(specs)
    seen = {module + meaning(original) for module, original in originals.items()}
    for module, spec in specs:
        try:
            source = mutate_code(originals[module], get_operator(spec.operator_name)(), spec.occurrence)
        except AttributeError:  # cosmic-ray replaces exceptions of a plain name only
            continue
        if source is None or not (means := meaning(source)) or module + means in seen:
            continue
        seen.add(module + means)
        yield Mutant(module, spec.operator_name.removeprefix("core/"), spec.start_pos[0], source)


def tested(mutant: Mutant | None, tests: tuple[str, ...], limit_s: float) -> str:
    """What the tests say of a mutant, or, None, of the code as it is."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        if mutant is not None:
            file = Path(folder) / "mutant.py"
            file.write_text(mutant.source)
            module = mutant.module.removesuffix(".py").replace("/", ".")
            environment["NAVNODE_MUTANT"] = f"{module}={file}"
        try:
            done = subprocess.run(
                [*command, "-p", "tests.mutation.replaced", *tests],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=limit_s,
            )
        except subprocess.TimeoutExpired:
            return TIMED_OUT
    return SURVIVED if done.returncode == 0 else KILLED


def main() -> None:
    """Exits with 1 if the tests fail without a mistake."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--count", type=int, default=60, help="at most so many mutants per group (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="at most so long per group (%(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the mutants (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="tests that run side by side (%(default)s)")
    given = parser.parse_args()
    if unknown := set(given.groups) - set(TARGETS):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    for group in given.groups or TARGETS:
        judge(group, given.count, given.minutes, given.seed, given.jobs)


def judge(group: str, count: int, minutes: float, seed: int, jobs: int) -> None:
    """Prints what became of a sample of a group's mutants, and every one that survived."""
    modules = TARGETS[group]
    chosen = list(itertools.islice(mutants(modules, random.Random(f"{group} {seed}")), count))
    limits_s = {}
    for tests in dict.fromkeys(modules.values()):
        begun = time.monotonic()
        if (before := tested(None, tests, 600)) != SURVIVED:
            sys.exit(f"{' '.join(tests)} fail without a mistake ({before})")
        limits_s[tests] = 20 + 5 * (time.monotonic() - begun)
    print(f"{group}: {len(chosen)} mutants, seed {seed}", flush=True)
    until, outcomes = time.monotonic() + 60 * minutes, Counter[str]()

    def run(mutant: Mutant) -> tuple[Mutant, str] | None:
        tests = modules[mutant.module]
        return None if time.monotonic() > until else (mutant, tested(mutant, tests, limits_s[tests]))

    with ThreadPoolExecutor(jobs) as pool:
        for done in pool.map(run, chosen):
            if done is None:
                outcomes["not tried"] += 1
                continue
            mutant, outcome = done
            outcomes[outcome] += 1
            if outcome == SURVIVED:
                print(f"\nsurvived: {mutant.module}:{mutant.line} {mutant.operator}\n{mutant.diff()}", flush=True)
    print(f"\n{group}: " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())), flush=True)


if __name__ == "__main__":
    main()
