"""Functions that methods share: densities, masks, schedules, scores, paths."""
