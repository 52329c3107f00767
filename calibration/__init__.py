"""Calibration before surgery."""
