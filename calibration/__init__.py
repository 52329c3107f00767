"""Calibration before surgery: one module per routine, each a function from arrays to a
:class:`~calibration.verdict.Calibration`.

Every routine states how sure it is of its result and judges itself by gates; what fails is never written. The commands
around them are in :mod:`calibration.commands`.
"""

SUMMARY = "Calibration before surgery: measure, judge, and write what the node loads."
"""What ``navnode --help``, which loads no routine, says of ``navnode calibrate``."""
