"""Which extra brings which module, and the line that installs it."""

from __future__ import annotations

# Import names, as far as commands need them. The requirements themselves stand in pyproject.toml.
EXTRAS: dict[str, tuple[str, ...]] = {
    "data": ("zarr", "fsspec", "safetensors", "tqdm"),
    "train": ("torch", "transformers", "diffusers"),
    "sim": ("mujoco", "robosuite", "gymnasium", "numba", "scipy", "cv2", "PIL"),
    "report": ("statsmodels", "matplotlib", "jinja2", "av"),
}
ROBOSUITE = "robosuite==1.5.2"


def remedy(module: str) -> str:
    """The one line that installs what brings `module`."""
    if module == "robosuite":
        # its declared dependencies bring an old mink (numpy < 2) and evdev (a compiler), which nothing here uses
        return f"pip install --no-deps {ROBOSUITE}"
    extra = next((extra for extra, modules in EXTRAS.items() if module.split(".")[0] in modules), "all")
    return f"pip install 's2robot[{extra}]'"
