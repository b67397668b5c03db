"""Policies: observation tokens to action chunks. Imported as `s2robot.policies`."""

if __name__ != "s2robot.policies":
    raise ImportError(f"import this package as s2robot.policies, not as {__name__!r}")
