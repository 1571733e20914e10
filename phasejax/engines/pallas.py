"""The paper's topology as one GPU kernel for many steps, written in Pallas and compiled by Triton.

A block of the kernel is one warp. It takes a few cells of one seed, keeps their weights in registers from the first step
to the last, and reads nothing in between but batches; what a seed does depends, to the bit, on nothing beside it. Every
product is one of the working precision: no tensor core, no approximate tanh.

JAX calls the Triton backend of Pallas deprecated. Nothing outside this module knows of it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from phasejax.engines.autodiff import first_divergence
from phasejax.experiment import Experiment
from phasejax.network import Network
from phasejax.state import Advance, Batches, Cells, Clock, State, Task

name = "pallas"

# 32-bit registers that each of the 32 lanes has for weights and gradient factors, out of 255 for everything. Compiled for
# sm_90, larger networks and batches spill at 160.
_REGISTERS = 144
# The loop over a batch is written out, so a larger one makes a long program.
_MOST_SAMPLES = 16


def why_not(experiment: Experiment, devices: Sequence[Any]) -> str | None:
    """A sentence why this engine does not apply to an experiment on some devices, or None if it does."""
    device = devices[0]
    # XLA compiles Triton from Ampere on; AMD's GPUs, whose capability reads "gfx...", have never been tried.
    major = device.compute_capability.partition(".")[0] if device.platform == "gpu" else ""
    if not major.isdigit() or int(major) < 8:
        return "it is for NVIDIA GPUs of compute capability 8.0 or newer"
    network, task = experiment.network, experiment.task
    if experiment.sgd.optimizer != "sgd" or not experiment.plain:
        return "it knows plain SGD at a constant learning rate only"
    if not isinstance(network, Network) or not network.soft_committee:
        return "it knows one trained layer of tanh nodes, the last before a single frozen output, only"
    if task.loss != "mse" or not hasattr(task, "draw"):
        return "it knows half the squared error on data of each seed's own only"
    n1, n2 = network.widths[-3:-1]
    batch = experiment.sgd.batch_size
    if batch > _MOST_SAMPLES:
        return f"it takes batches of at most {_MOST_SAMPLES} samples"
    if not _block_cells(n1, n2, batch, jnp.dtype(experiment.precision).itemsize):
        return f"the {n2} x {n1} weights of a student are too many for a warp's registers in {experiment.precision}"
    try:
        import jax.experimental.pallas.triton  # noqa: F401
    except ImportError as error:
        return f"this JAX has no Triton backend of Pallas ({error})"
    return None


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n: Triton's arrays have no other shapes."""
    return 1 << (n - 1).bit_length()


def _block_cells(n1: int, n2: int, batch: int, itemsize: int) -> int:
    """Cells in one block: as many as the registers hold, a power of two up to 32; 0 if there is no room for one."""
    words = (_power_of_two(n1) + batch) * _power_of_two(n2) * itemsize // 4
    room = 32 * _REGISTERS // words
    return min(32, 1 << (room.bit_length() - 1)) if room else 0


def _kernel(
    counts, w_ref, loss_sum_ref, diverged_ref, readout_ref, rates_ref, features_ref, again_ref, targets_ref,
    w_out, loss_sum_out, diverged_out,
):  # fmt: skip
    """One block: weights (cells, n1, n2), sums and rates (cells,), readout (n2,), and all batches of the seed."""
    step, first, n_steps = counts[0], counts[1], counts[2]
    readout, rates = readout_ref[:][None], rates_ref[:]
    samples = range(features_ref.shape[1])

    def body(k: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        w, loss_sum, diverged = carry
        # All reads go ahead of the arithmetic, which they would hold up one by one.
        phi = [features_ref[first + k, b, :] for b in samples]
        y = [targets_ref[first + k, b] for b in samples]
        value, g = jnp.zeros_like(loss_sum), []
        for b in samples:
            f = jnp.tanh(jnp.sum(w * phi[b][None, :, None], axis=1))
            error = jnp.sum(readout * f, axis=1) - y[b]
            value += error * error
            g.append((error * rates)[:, None] * readout * (1 - f * f))
        value *= 0.5 / len(samples)
        for b in samples:
            # The same features under a second name: read anew, they need not be kept in registers until here.
            w -= g[b][:, None, :] * again_ref[first + k, b, :][None, :, None]
        return w, loss_sum + value, first_divergence(diverged, value, step + k)

    carry = (w_ref[...], loss_sum_ref[...], diverged_ref[...])
    w_out[...], loss_sum_out[...], diverged_out[...] = jax.lax.fori_loop(0, n_steps, body, carry)


def advance(experiment: Experiment, devices: Sequence[Any] = (), interpret: bool = False) -> Advance:
    """The `advance` of one shard.

    Args:
        experiment: one to which this engine applies.
        devices: where.
        interpret: run the kernel's arithmetic in plain XLA on any device, slowly.
    """
    (trained,) = experiment.network.trained
    return _advance(trained, experiment.network.readout, interpret)


@functools.cache
def _advance(trained: str, last: str, interpret: bool) -> Advance:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    def advance(state: State, tasks: Task, batches: Batches, given: Cells, clock: Clock) -> State:
        weights = state.weights[trained]
        seeds, cells, n2, n1 = weights.shape
        steps, batch = batches.features.shape[1:3]
        block = _block_cells(n1, n2, batch, weights.dtype.itemsize)
        n1_, n2_ = _power_of_two(n1), _power_of_two(n2)
        cells_ = -(-cells // block) * block

        # What is padded is zero: it adds nothing to a sum, has learning rate 0, and is cut off at the end.
        # With nodes last, Triton gives a lane all of n1 for a few nodes of one cell: sums over n1 stay within the lane.
        inputs = (
            jnp.stack([clock.step, clock.first, clock.steps]),
            _padded(weights.swapaxes(2, 3), (seeds, cells_, n1_, n2_)),
            _padded(state.loss_sum, (seeds, cells_)),
            _padded(state.diverged_step, (seeds, cells_)),
            _padded(tasks.frozen[last][:, 0], (seeds, n2_)),
            _padded(given.numbers["learning_rate"] / batch, (cells_,)),
            *[_padded(batches.features, (seeds, steps, batch, n1_))] * 2,
            batches.targets[..., 0],
        )
        of_cells = [
            pl.BlockSpec((None, block, n1_, n2_), lambda seed, cell: (seed, cell, 0, 0)),
            pl.BlockSpec((None, block), lambda seed, cell: (seed, cell)),
            pl.BlockSpec((None, block), lambda seed, cell: (seed, cell)),
        ]
        all_batches = pl.BlockSpec((None, steps, batch, n1_), lambda seed, cell: (seed, 0, 0, 0))
        w, loss_sum, diverged = pl.pallas_call(
            _kernel,
            grid=(seeds, cells_ // block),
            in_specs=[
                pl.BlockSpec((3,), lambda seed, cell: (0,)),
                *of_cells,
                pl.BlockSpec((None, n2_), lambda seed, cell: (seed, 0)),
                pl.BlockSpec((block,), lambda seed, cell: (cell,)),
                *[all_batches] * 2,
                pl.BlockSpec((None, steps, batch), lambda seed, cell: (seed, 0, 0)),
            ],
            out_specs=of_cells,
            out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in inputs[1:4]],
            compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
            interpret=interpret,
        )(*inputs)
        return state._replace(
            weights={trained: w[:, :cells, :n1, :n2].swapaxes(2, 3)},
            loss_sum=loss_sum[:, :cells],
            diverged_step=diverged[:, :cells],
        )

    return advance


def _padded(array: Array, shape: tuple[int, ...]) -> Array:
    """The array with zeros behind each axis, up to this shape."""
    return jnp.pad(array, [(0, after - before) for before, after in zip(array.shape, shape, strict=True)])
