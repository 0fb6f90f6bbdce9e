"""Measurements: sign flips, floating-point operations, sharpness, times."""
