"""Where students begin: at a draw of their own, at their teacher, or where another run left them."""

from collections.abc import Mapping

from phasejax.checks import number, part, refuse, sequence, set_fields, text, whole
from phasejax.tasks import digest


@part("start")
class FromDraw:
    """W(0) = sigma_W xi / sqrt(n), with the seed's own standard-normal xi (Eq 2.11)."""


@part("start")
class FromTeacher:
    """W(0) = teacher's W + perturbation times what the draw would be at sigma_W = 1; sigma_w is then read by nothing."""

    perturbation: float = 0.0
    """Size of the perturbation, in units of the weights' standard deviation at sigma_W = 1."""

    def __post_init__(self) -> None:
        allowed = "it must be a finite number from 0 up"
        found = number("start.perturbation", self.perturbation, allowed)
        if found < 0:
            raise refuse("start.perturbation", found, allowed)
        set_fields(self, perturbation=found)


@part("start")
class FromRun:
    """The weights that another run recorded, of the seeds with the same labels.

    Every axis of that run is either named in `at`, and one cell taken, or in `along`, and is an axis of this grid too.
    """

    path: str
    """Its finished file, runs/hot.nc."""
    at: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
    """Values along axes of that run."""
    along: tuple[str, ...] = ()
    """Names of axes that both have; each cell begins at that run's with the same values."""
    step: int = -1
    """The record of weights to take; the last if -1."""
    sha256: str = ""
    """SHA-256 of the file; found out if empty."""

    def __post_init__(self) -> None:
        at = self.at.items() if isinstance(self.at, Mapping) else sequence("start.at", self.at)
        set_fields(
            self,
            path=text("start.path", self.path),
            at=tuple(sorted((text("start.at", name), number("start.at", value)) for name, value in at)),
            along=tuple(text("start.along", name) for name in sequence("start.along", self.along)),
            step=whole("start.step", self.step, -1),
            sha256=text("start.sha256", self.sha256) or digest("start.path", self.path),
        )


KINDS: Mapping[str, type] = {"FromDraw": FromDraw, "FromTeacher": FromTeacher, "FromRun": FromRun}
"""Starts that have a name."""
