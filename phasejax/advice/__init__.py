"""Where a network of one's own stands in the phase diagram, from a small part of its training."""

from phasejax.advice.advising import Advice, advise
from phasejax.advice.reading import NEEDED, Reading, boundary, read, scores

__all__ = ["NEEDED", "Advice", "Reading", "advise", "boundary", "read", "scores"]
