"""Has tasks done by Dask (``distributed``): in processes of this machine, or those of a scheduler."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Sequence

from navnode.bench.evaluation.rows import Row
from navnode.bench.evaluation.sessions import Task
from navnode.errors import ConfigError

__all__ = ["run"]


def run(
    tasks: Sequence[Task], score: Callable[[Task], Row], scheduler: str, workers: int
) -> Iterable[tuple[Task, Row | str]]:
    """Each task and its row as it is done, or why there is none.

    Raises:
        ConfigError: Dask is not installed, or the scheduler does not answer.
    """
    try:
        dask = importlib.import_module("distributed")
    except ImportError as error:
        raise ConfigError("evaluate needs Dask: pip install 'navnode[evaluate]'") from error
    for name in [*logging.root.manager.loggerDict, "distributed"]:
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are in the rows
    try:
        cluster = None
        if not scheduler:
            cluster = dask.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                memory_limit=0,
            )
        client = dask.Client(cluster or scheduler, timeout=20)
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"--scheduler {scheduler}: does not answer ({error})") from error
    try:
        futures = {client.submit(score, task, pure=False, retries=0): task for task in tasks}
        for future in dask.as_completed(list(futures)):
            task = futures.pop(future)
            if future.status == "finished":
                yield task, future.result()
            else:  # the worker died
                yield task, f"its process ended ({type(future.exception()).__name__})"
            future.release()
    finally:
        client.close()
        if cluster is not None:
            cluster.close()
