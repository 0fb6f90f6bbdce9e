"""Measurements of networks: sign flips, floating-point operations, sharpness."""
