"""Makes encoder_models importable (pytest's importlib mode leaves sys.path alone) and saves models as folders."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from encoder_models import HUGGINGFACE


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, nn.Module]]:
    """Saves a random model of HUGGINGFACE as its publisher would; gives the folder and the model."""
    made: dict[str, tuple[Path, nn.Module]] = {}

    def folder_of(name: str) -> tuple[Path, nn.Module]:
        if name not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(5)
                model = HUGGINGFACE[name].model().eval()
            # As initialised, class tokens and biases are near zero and would hide a wrong order of tokens.
            stream = np.random.RandomState(13)
            for parameter in model.parameters():
                parameter.data += torch.from_numpy(
                    np.asarray(0.1 * stream.standard_normal(tuple(parameter.shape)))
                ).float()
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            HUGGINGFACE[name].processor().save_pretrained(folder)
            made[name] = folder, model
        return made[name]

    return folder_of
