"""`python -m capaboost_vit.cli` is the command `capaboost`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
