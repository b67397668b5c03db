"""`s2robot pretrain`: frames -> dense training -> a Hugging Face folder with fp16 weights.

Resumable: frames by shard, training by checkpoint. Two sizes trained with the same seed see the same crops of the
same frames in the same order, each resized to its own tile.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2robot.errors import MismatchError, S2RobotError
from s2robot.pipeline.checkpoint import load_tensors, newest_checkpoint, save_checkpoint
from s2robot.pipeline.dense import CropSampler, DensePretrainer
from s2robot.pipeline.fit import Schedule, TrainState, fit
from s2robot.pipeline.frames import SHARD_FRAMES, FrameSet, generate_frames
from s2robot.progress import progress, say
from s2robot.storage import append_line, cut_torn_line, publish_folder, write_json

HELD_OUT_SEED = 999  # of the validation crops; their frames are the last shard's


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run. `hidden_size`, `heads`, `layers` and `tile_px` give the ViT; the patch is 16 px."""

    out: str
    frames_dir: str
    frames: int
    first_seed: int
    frame_px: int
    hidden_size: int
    heads: int
    layers: int
    tile_px: int
    batch_size: int
    steps: int
    warmup: int
    lr: float
    weight_decay: float
    seed: int
    save_every: int
    workers: int
    threads: int

    def __post_init__(self) -> None:
        if self.tile_px % 16 or self.hidden_size % self.heads:
            raise S2RobotError(
                f"tile_px={self.tile_px} must divide by the patch of 16 px and hidden_size={self.hidden_size} "
                f"by heads={self.heads}"
            )

    def recipe(self) -> dict[str, Any]:
        """What determines the weights: everything but folders and machine settings."""
        machine = {"out", "frames_dir", "save_every", "workers", "threads"}
        return {k: v for k, v in asdict(self).items() if k not in machine}


def pretrain(config: PretrainConfig, device: str = "cpu") -> Path:
    """Run to the end (or go on where a run stopped) and return the folder of the finished weights."""
    out = Path(config.out)
    generate_frames(Path(config.frames_dir), config.frames, config.first_seed, config.frame_px, config.workers)
    frames = FrameSet(Path(config.frames_dir), config.frames)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    module = DensePretrainer(build_vit(config), patch=16).to(device)
    schedule = Schedule(config.lr, config.steps, config.warmup)
    state = TrainState.create(module, schedule, seed=config.seed, weight_decay=config.weight_decay)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("train.jsonl", "val.jsonl"):
        cut_torn_line(out / name)
    resume(state, out / "checkpoints", config.recipe())
    train, held_out = frames.split(last=SHARD_FRAMES)
    crops = CropSampler(train, config.batch_size, config.tile_px, 16, config.seed)
    validation = [CropSampler(held_out, 64, config.tile_px, 16, HELD_OUT_SEED)(i) for i in range(4)]
    parts: dict[str, Tensor] = {}

    def loss(batch: Any) -> Tensor:
        total, terms = module.loss(batch)
        parts.update(terms)
        return total

    for record in progress(fit(loss, crops, state), config.steps, f"pretrain {out.name}", "step", state.step):
        if record.step % 20 == 0:
            line = {"step": record.step, "loss": float(record.loss), "lr": record.lr}
            append_line(out / "train.jsonl", json.dumps(line | {k: float(v) for k, v in parts.items()}))
        if record.step % config.save_every == 0 or record.step == config.steps:
            append_line(out / "val.jsonl", json.dumps({"step": record.step, **_validate(module, validation)}))
            save_checkpoint(
                out / "checkpoints", record.step, {"train_state": state.tensors()}, {"recipe": config.recipe()}
            )
    return export_weights(module.backbone, config, out / "weights", frames.fingerprint())


def resume(state: TrainState, folder: Path, recipe: dict[str, Any]) -> None:
    """Load the newest intact checkpoint into `state`. Raises MismatchError when it belongs to another recipe."""
    found = newest_checkpoint(folder)
    if found is None:
        return
    path, manifest = found
    if manifest["recipe"] != recipe:
        changed = sorted(k for k in {*recipe, *manifest["recipe"]} if recipe.get(k) != manifest["recipe"].get(k))
        raise MismatchError(
            f"{folder} was trained with another recipe ({', '.join(changed)}); give another out= folder"
        )
    state.restore(load_tensors(path, "train_state"), manifest["step"])
    say(f"resuming {folder.parent.name} at step {state.step}")


def build_vit(config: PretrainConfig) -> Any:
    """A randomly initialised Hugging Face ViT with plain attention: SDPA's backward is slower on the CPU (measured)."""
    from transformers import ViTConfig, ViTModel

    shape = ViTConfig(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.hidden_size,
        image_size=config.tile_px,
        patch_size=16,
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )
    return ViTModel(shape, add_pooling_layer=False)


def export_weights(backbone: Any, config: PretrainConfig, folder: Path, frames_sha256: str) -> Path:
    """Write a Hugging Face folder in one rename: fp16 weights in files of at most 14 MB, preprocessing and recipe."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(backbone).cpu().half().save_pretrained(partial, max_shard_size="14MB")
    preprocessing = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": config.tile_px, "width": config.tile_px},
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    write_json(partial / "preprocessor_config.json", preprocessing)
    write_json(partial / "recipe.json", {"recipe": config.recipe(), "frames_sha256": frames_sha256})
    shutil.rmtree(folder, ignore_errors=True)
    for path in partial.iterdir():
        path.chmod(0o644)  # safetensors makes its files private
    publish_folder(partial, folder)
    return folder


@torch.no_grad()
def _validate(module: DensePretrainer, batches: list[Any]) -> dict[str, float]:
    module.eval()
    rows = [module.loss(batch)[1] for batch in batches]
    return {k: float(torch.stack([row[k] for row in rows]).mean()) for k in rows[0]}
