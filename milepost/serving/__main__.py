import sys

from milepost.serving.process import main

sys.exit(main())
