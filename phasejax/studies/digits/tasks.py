"""The study's own data."""

from dataclasses import dataclass
from typing import Any

import phasejax as pj


@dataclass(frozen=True)
class ShuffledDigits:
    """The images of `phasejax.Digits` with their labels permuted, those of the training and of the test images apart."""

    samples: int = 1440
    loss: str = "cross_entropy"
    has_teacher = False

    def load(self) -> tuple[Any, Any, Any, Any]:
        """(x, y, test_x, test_y), as many of each label as there were."""
        import numpy as np

        x, y, test_x, test_y = pj.Digits(self.samples).load()
        random = np.random.default_rng(1)
        return x, random.permutation(y), test_x, random.permutation(test_y)
