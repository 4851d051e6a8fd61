"""The benchmarks are no part of the package: they are found in the checkout, behind everything that is installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
