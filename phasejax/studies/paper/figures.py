"""The figures of the paper's study: the paper's nine, and what the paper has no figure of."""

from phasejax.figures.boundary import convergence_boundaries, criterion
from phasejax.figures.density import feature_density
from phasejax.figures.eigenvalue_flow import eigenvalue_flow, initial_spectrum
from phasejax.figures.length import against_length, along_training, training_needed
from phasejax.figures.maps import (
    loss_map,
    memory_and_alignment,
    normalised_memory,
    rate_map,
    seed_variance,
    teacher_overlaps,
)
from phasejax.figures.slices import ordered_slice, temperature_slices
from phasejax.figures.summary import phase_diagram

FIGURES = (
    phase_diagram,
    feature_density,
    loss_map,
    temperature_slices,
    ordered_slice,
    memory_and_alignment,
    eigenvalue_flow,
    rate_map,
    convergence_boundaries,
    normalised_memory,
    teacher_overlaps,
    seed_variance,
    criterion,
    initial_spectrum,
    training_needed,
    against_length,
    along_training,
)
"""The page opens with the first."""
