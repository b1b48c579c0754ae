"""`python -m aquatint`: the command."""

import sys

from aquatint.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
