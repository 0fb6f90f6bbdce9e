"""Masks and latents around `optimizer.step()`."""
