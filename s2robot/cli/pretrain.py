"""`s2robot pretrain`: an embedded encoder from random scenes."""

from __future__ import annotations

from typing import Any

HELP = "pre-trains an encoder on random tabletop scenes"
VERBS: dict[str, str] = {}


def run(config: Any, verb: str) -> int | None:
    """Draw the frames that are missing, train, and say where the weights lie."""
    from omegaconf import OmegaConf

    from s2robot.encoders.backbone import resolve_device
    from s2robot.pipeline.pretrain.run import PretrainConfig, pretrain
    from s2robot.targets import call_checked

    plain: Any = OmegaConf.to_container(config, resolve=True)
    device, model, objective = plain.pop("device"), plain.pop("model"), plain.pop("objective")
    for key in ("name", "lr"):  # resolved into out= and lr=
        model.pop(key)
    plain["scales"] = tuple(plain["scales"]) if isinstance(plain["scales"], list) else (plain["scales"],)
    folder = pretrain(
        call_checked(PretrainConfig, "pretrain", **model, **objective, **plain), str(resolve_device(device))
    )
    print(f"weights in {folder}; use them with encoder=hf encoder.path={folder}")
    return None
