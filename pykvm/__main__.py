"""``python -m pykvm``."""

import sys

from pykvm.cli.main import main

sys.exit(main())
