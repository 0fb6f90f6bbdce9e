"""From the description of a run to a finished run, anywhere."""
