"""A figure as a picture."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


def png_bytes(figure: Figure, dpi: int = 130) -> bytes:
    """PNG, the same bytes for the same figure: the version of matplotlib stays out of it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
