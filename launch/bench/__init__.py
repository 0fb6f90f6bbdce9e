"""Measurements of cost: `signbench bench`."""
