"""`python -m launch` is `signbench`, also where it is not installed."""

import sys

from launch.cli import main

if __name__ == "__main__":
    sys.exit(main())
