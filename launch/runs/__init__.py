"""Run folders, written and read by what trains. `analysis.folder` names their files."""
