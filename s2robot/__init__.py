"""s2robot: manipulation policies on frozen multi-scale visual features. Importing this imports nothing heavy."""

from __future__ import annotations

__version__ = "0.1.0"
