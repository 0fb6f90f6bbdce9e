"""All runs as one DataFrame."""

from __future__ import annotations

import json

from analysis.frame import load_runs


def write(folder, label, options, **fields):
    """Write the folder of a run that has a configuration only."""
    folder.mkdir()
    run = {"recipe": "digits", "method": label.split(" ")[0], "options": options, "settings": {}}
    run |= {"sparsity": 0.9, "sign_in": False, "seed": 0}
    (folder / "config.json").write_text(json.dumps({"run": run, "label": label, **fields}))
    return folder


def test_runs_with_the_defaults_of_before_are_told_from_those_with_new_ones(tmp_path):
    old = write(tmp_path / "a", "gmp", {"scope": "global"})
    explicit = write(tmp_path / "b", "gmp (layer)", {"scope": "layer"})
    new = {"new_defaults": {"scope": "layer"}}
    newer = write(tmp_path / "c", "gmp", {"scope": "layer"}, **new)
    chosen = write(tmp_path / "d", "gmp (global)", {"scope": "global"}, **new)
    further = write(tmp_path / "f", "gmp (begin=0.1)", {"scope": "global", "begin": 0.1})
    other = write(tmp_path / "e", "rigl", {})
    assert list(load_runs([old, other])["label"]) == ["gmp", "rigl"]
    found = load_runs([old, explicit, newer, chosen, further, other])
    assert list(found["label"]) == [
        "gmp (earlier)",
        "gmp (layer)",
        "gmp",
        "gmp (global)",
        "gmp (earlier, begin=0.1)",
        "rigl",
    ]
    assert "new_defaults" not in found
