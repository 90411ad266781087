"""`python -m pipeline_engine`: the command line."""

import sys

from pipeline_engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
