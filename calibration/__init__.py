"""Calibration before surgery: one module per routine, each a function from arrays to a
:class:`~calibration.verdict.Calibration`.

Every routine states the uncertainty of its result and judges itself by gates; failed calibrations are never written.
The commands are in :mod:`calibration.commands`.
"""

__all__ = ["SUMMARY"]

SUMMARY = "Calibration before surgery: measure, judge, and write what the node loads."
"""Summary of ``navnode calibrate`` in ``navnode --help``, which loads no routine."""
