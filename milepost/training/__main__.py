"""`python -m milepost.training DIR`: run the task described in DIR/job.json.

`--wait` in place of DIR has the process make itself ready for training first, and wait on its stdin for the order.
"""

import sys
from pathlib import Path

from milepost.modeling import machine
from milepost.resources.runs import WAIT
from milepost.training.run import main

#: The server and whoever else is there go first: who chats waits, who trains does not notice.
NICENESS = 5

machine.be_nice(NICENESS)
if sys.argv[1] == WAIT:
    from milepost.training.waiting import ordered

    directory = ordered()
    if directory is None:
        sys.exit()
else:
    directory = Path(sys.argv[1])
sys.exit(main(directory))
