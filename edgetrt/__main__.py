"""`python -m edgetrt` is `edgetrt`."""

from __future__ import annotations

import sys

from edgetrt.cli import main

sys.exit(main())
