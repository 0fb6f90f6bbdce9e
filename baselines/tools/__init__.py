"""Pure functions that methods share: densities, schedules, scores, paths."""
