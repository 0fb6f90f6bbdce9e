"""The description of a run, of a machine and of grids."""
