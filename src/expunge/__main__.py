"""``python -m expunge`` is the command line too."""

import sys

from expunge.cli import main

sys.exit(main())
