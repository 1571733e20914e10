"""Studies: questions that several experiments answer together."""

from phasejax.studies.study import Study, open_study

__all__ = ["Study", "open_study"]
