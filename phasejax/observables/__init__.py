"""What is measured: pure functions of one student and its task, evaluated inside the compiled graph."""

from phasejax.observables.observable import Observable, When, choose
from phasejax.observables.student import View

__all__ = ["Observable", "View", "When", "choose"]
