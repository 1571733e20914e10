"""The study's own data."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Noise:
    """Inputs and targets are signs that have nothing to do with each other: y = 0 x + noise.

    In all 256 samples together any four of them are independent, so that E x x^T = 1, E y x^T = 0, and the noise of the
    gradient is the same in every entry of W and uncorrelated, exactly; sharpness 1, noise sharpness the number of inputs.
    """

    samples: int = 256
    loss: str = "mse"
    inputs: int = 11
    outputs: int = 6
    has_teacher = False

    def load(self) -> tuple[Any, Any, Any, Any]:
        """(x, y, test_x, test_y), in a random order; the test samples are the same."""
        bits = np.random.default_rng(1).permutation(self.samples)
        parity = [[(bin(int(bit) & column).count("1")) % 2 for column in self._columns()] for bit in bits]
        x, y = np.split(1 - 2 * np.array(parity, np.float32), [self.inputs], axis=1)
        return x, y, x, y

    def _columns(self) -> list[int]:
        """Columns of an orthogonal array of strength 4: any four of them are linearly independent over two elements."""
        chosen: list[int] = []
        taken = {0}
        for column in range(1, self.samples):
            if column not in taken and len(chosen) < self.inputs + self.outputs:
                chosen.append(column)
                pairs = {a ^ b for a in chosen for b in chosen}
                taken = pairs | {a ^ b for a in chosen for b in pairs}
        return chosen
