"""Tasks (robosuite, MuJoCo), the lean renderer and scripted experts. Imported as `s2robot.envs`."""

if __name__ != "s2robot.envs":
    raise ImportError(f"import this package as s2robot.envs, not as {__name__!r}")
