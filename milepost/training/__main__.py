"""`python -m milepost.training DIR`: run the task described in DIR/job.json."""

import sys
from pathlib import Path

from milepost.training.run import main

sys.exit(main(Path(sys.argv[1])))
