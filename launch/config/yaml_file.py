"""Files of a user's own in YAML: grids and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from baselines.errors import UserError

ENDINGS = (".yaml", ".yml")


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping of fields to values in a file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    import yaml

    try:
        found = yaml.safe_load(path.expanduser().read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a mapping of fields to values.")
    return found
