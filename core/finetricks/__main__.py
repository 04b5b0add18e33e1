"""`python -m finetricks` is the command `finetricks`."""

import sys

from finetricks.cli import main

sys.exit(main())
