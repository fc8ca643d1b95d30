"""`python -m milepost.serving BASE HASH --threads N`: an engine, its stdin a socket to the client."""

import sys

from milepost.serving.process import main

sys.exit(main())
