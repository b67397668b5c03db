"""What is known of a published encoder before its files are there: architecture, normalisation, licence.

With it an encoder's cost is known without its weights, and a file of another model is found out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from s2robot.errors import MismatchError, S2RobotError

TOLERANCE = 1e-3  # of mean and std: some publishers round them


@dataclass(frozen=True)
class Card:
    """The `card` of a YAML in configs/encoder.

    Args:
        model: `model_type` and the other entries of its transformers configuration that are not defaults.
        mean: RGB on the scale [0, 1].
        std: RGB on the scale [0, 1].
        licence: of the weights.
        layer: the layer whose tokens its authors recommend; -1 is the last.
        source: where to get the files that no hub serves.
    """

    model: Mapping[str, Any]
    mean: Sequence[float]
    std: Sequence[float]
    licence: str
    layer: int = -1
    source: str = ""

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Card:
        """From a YAML. Raises S2RobotError for keys that are unknown or missing."""
        try:
            return cls(**settings)
        except TypeError as error:
            known = ", ".join(field.name for field in fields(cls))
            raise S2RobotError(f"card: {error}; its keys are {known}") from error

    def require(self, config: Any, mean: Sequence[float], std: Sequence[float], folder: Path) -> None:
        """Raises MismatchError where a model's own files say something else."""
        found = {key: getattr(config, key, None) for key in self.model}
        wrong = [f"{key} {found[key]}, not {wanted}" for key, wanted in self.model.items() if found[key] != wanted]
        for name, ours, theirs in (("mean", self.mean, mean), ("std", self.std, std)):
            if any(abs(a - b) > TOLERANCE for a, b in zip(ours, theirs, strict=True)):
                wrong.append(f"image_{name} {list(theirs)}, not {list(ours)}")
        if wrong:
            raise MismatchError(f"{folder} holds another model than this encoder's card: {'; '.join(wrong)}")
