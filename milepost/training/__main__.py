"""`python -m milepost.training DIR`: run the task described in DIR/job.json."""

import sys
from pathlib import Path

from milepost.modeling import machine
from milepost.training.run import main

#: The server and whoever else is there go first: who chats waits, who trains does not notice.
NICENESS = 5

machine.be_nice(NICENESS)
sys.exit(main(Path(sys.argv[1])))
