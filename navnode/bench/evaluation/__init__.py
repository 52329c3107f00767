"""Replay and score an archive of sessions, and compare two versions or configurations.

:mod:`sessions` is where they come from, :mod:`rows` what is known of each, :mod:`scoring` replays one, :mod:`cluster`
has many done at once, :mod:`report` is the page; :mod:`run` puts them together.
"""

from navnode.bench.evaluation.report import damage_of, judged, page, totals
from navnode.bench.evaluation.rows import FigureSums, Row, ScoredRow, read_rows
from navnode.bench.evaluation.run import REPORT, EvaluationReport, evaluate, evaluate_tasks, raise_if_damaged
from navnode.bench.evaluation.scoring import score
from navnode.bench.evaluation.sessions import Session, Task, sessions_of
from navnode.recording.listing import sessions_in

__all__ = [
    "EvaluationReport",
    "FigureSums",
    "REPORT",
    "Row",
    "ScoredRow",
    "Session",
    "Task",
    "damage_of",
    "evaluate",
    "evaluate_tasks",
    "judged",
    "page",
    "raise_if_damaged",
    "read_rows",
    "score",
    "sessions_in",
    "sessions_of",
    "totals",
]
