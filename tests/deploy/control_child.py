"""Runs the loop on a fake robot that prints every command it gets: `python control_child.py FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.deploy.fake_robot import FakeRobot
from tests.deploy.test_control import loop_of


class PrintingRobot(FakeRobot):
    def write(self, command: Sequence[float]) -> None:
        print(*(repr(float(x)) for x in command), flush=True)
        super().write(command)


if __name__ == "__main__":
    loop = loop_of(Path(sys.argv[1]), PrintingRobot())
    print("running", flush=True)
    loop.run(1000)
