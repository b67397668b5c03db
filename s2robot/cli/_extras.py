"""What each extra of the package demands, read from the installed metadata, and the line that installs it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ROBOSUITE = "robosuite==1.5.2"
# An extra counts as installed where this distribution is: the others may have come with something else.
SIGN_OF_EXTRA = {
    "data": "zarr",
    "train": "torch",
    "sim": "mujoco",
    "report": "statsmodels",
    "robot": "onnxruntime",
    "export": "onnxscript",
}
_DISTRIBUTION_OF_MODULE = {"cv2": "opencv-python-headless", "pil": "pillow"}


@dataclass(frozen=True)
class Demand:
    """One requirement of an extra. `installed` is a version or None; `fits` says whether it is an allowed one."""

    name: str
    allowed: str
    installed: str | None
    fits: bool


def demands() -> dict[str, list[Demand]]:
    """Extra -> its requirements; "" holds those of the base package. Empty where the package is not installed."""
    from packaging.requirements import Requirement

    found: dict[str, list[Demand]] = {"": [], **{extra: [] for extra in SIGN_OF_EXTRA}}
    try:
        lines = metadata.requires("s2robot") or []
    except metadata.PackageNotFoundError:
        return found
    for requirement in map(Requirement, lines):
        for extra, into in found.items():
            if requirement.name == "s2robot" or (requirement.marker is None) != (extra == ""):
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                into.append(_demand(requirement))
    found["sim"].append(_demand(Requirement(ROBOSUITE)))
    return found


def _demand(requirement: Requirement) -> Demand:
    version = installed_version(requirement.name)
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    return Demand(requirement.name, str(requirement.specifier), version, fits)


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None without one."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def remedy(module: str) -> str:
    """The one line that installs what brings `module` (an import name or a distribution)."""
    name = _DISTRIBUTION_OF_MODULE.get(module.split(".")[0].lower(), module.split(".")[0].lower())
    if name == "robosuite":
        # its declared dependencies bring an old mink (numpy < 2) and evdev (a compiler), which nothing here uses
        return f"pip install --no-deps {ROBOSUITE}"
    extra = next((e for e, list_ in demands().items() if e and any(d.name.lower() == name for d in list_)), "all")
    return f"pip install 's2robot[{extra}]'"
