"""Which method there is, which one is chosen here, and what it runs on; without loading any of them."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path

from navnode.errors import ConfigError
from navnode.reconstruction import engines, models

__all__ = ["Method", "chosen", "described", "engine_name", "model_hash"]


class Method(StrEnum):
    """How to reconstruct."""

    AUTO = "auto"
    """Learned if the shipped model's card prefers it and an engine runs it, else SART."""
    LEARNED = "learned"
    """HU from a network in space; bone from networks that read it off every X-ray and refine it after the lift."""
    SART = "sart"
    TV = "tv"
    """SART that also reduces the total variation."""
    FDK = "fdk"
    PRIOR = "prior"
    """A registered CT, changed where the X-rays contradict it."""


def chosen(method: Method, model: Path | None = None) -> Method:
    """What ``AUTO`` stands for: the networks if they beat SART and an engine runs them.

    Raises:
        ConfigError: a model is given for a method that uses none.
    """
    if model is not None:
        if method not in (Method.AUTO, Method.LEARNED):
            raise ConfigError(f"only the learned method uses a model, not {method.value}")
        return Method.LEARNED
    if method is not Method.AUTO:
        return method
    return Method.LEARNED if engines.preferred() else Method.SART


def engine_name(method: Method = Method.AUTO) -> str:
    """What a method would run on, for display."""
    method, engine = chosen(method), engines.would_load()
    return described(method, engines.title(engine) if engine is not None else "no engine")


def model_hash(method: Method = Method.AUTO) -> str:
    """SHA-256 over the shipped models' cards, which list their graphs' hashes; '' if the method uses no model."""
    method = chosen(method)
    if method is not Method.LEARNED:
        return ""
    folders = (models.SHIPPED, models.SHIPPED_READER, models.SHIPPED_REFINER, models.SHIPPED_LUNGS)
    return hashlib.sha256(" ".join(map(models.card_hash, folders)).encode()).hexdigest()


def described(method: Method, engine: str) -> str:
    """A method and what it runs on, for display."""
    if method is Method.LEARNED:
        return f"{method.value} ({engine})"
    return f"{method.value.upper()} (classical)"
