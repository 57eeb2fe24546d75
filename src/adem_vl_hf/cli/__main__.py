"""``python -m adem_vl_hf.cli``."""

import sys

from .parser import main

sys.exit(main())
