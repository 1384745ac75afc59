"""`python -m lmppl` is the command `lmppl`."""

import sys

from lmppl.cli import main

if __name__ == "__main__":
    sys.exit(main())
