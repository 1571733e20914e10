"""The paper's quantitative statements (Secs 3 and 4), as claims."""

import math
from dataclasses import replace

from phasejax.analysis.boundaries import PAPER_JAMMING_LINE, SIGMAS
from phasejax.analysis.phases import jammed, ordered, paramagnetic
from phasejax.claims.judging import PAPER_STEPS, Claim, Measure
from phasejax.claims.nulls import at_start, mirrored, permuted
from phasejax.studies.paper.numbers import (
    PLANE,
    above,
    batch_dependence,
    batch_sizes,
    best_below_rise,
    between,
    beyond_error,
    boundary_slope,
    boundary_to_loss,
    by_rate,
    centred,
    chosen,
    constant_line,
    disorder_line,
    extreme,
    growth,
    halfway,
    hot_converged,
    initial,
    log_over,
    logarithm,
    misfit,
    on,
    opposite,
    over,
    ratio,
    rise,
    rise_width,
    since_start,
    small_start,
    unexplained,
    wider,
)

_HALF_DECADE = 0.5
_TENTH = 0.1**2
"""A tenth of a decade, as a variance."""


def _growth(temperature: float) -> tuple[Measure, ...]:
    """The numbers of the footnote to Sec 4.1, in one cell."""
    at, cell = f"at T = {temperature:g}", (temperature, 8.0)

    def about(name: str, of: str, paper: float) -> Measure:
        centre = math.log10(paper)
        return Measure(f"log10 of {name} {at}", on(of, *cell), logarithm(of), centre - _HALF_DECADE, centre + _HALF_DECADE)

    return about("rate per epoch", "rate", 2e-4), about("(n2-1) S", "spread", 1e6)


def _jump(name: str) -> tuple[Measure, ...]:
    return (
        Measure(f"log10 T where the {name} is halfway", on(name, None, 8), rise(name), -_HALF_DECADE, _HALF_DECADE),
        Measure(f"decades of T for the middle half of its rise ({name})", on(name, None, 8), rise_width(name), high=1.0),
    )


def _edges(inverse_sigma: float, paper: float) -> tuple[Measure, ...]:
    at, cell = f"at sigma_W = {1 / inverse_sigma:g}", (2**-5, inverse_sigma)
    return (
        Measure(f"Eq 4.2 / paper {at}", initial(on("edge", *cell)), ratio("edge", paper), 0.98, 1.02),
        Measure(f"mean largest eigenvalue / paper {at}", initial(on("largest", *cell)), ratio("largest", paper), 0.8, 1.2),
    )


def _lines(reading: str) -> tuple[Measure, ...]:
    """What the two sigma line is to separate."""
    take, phases = on(reading), {"jammed": jammed, "paramagnetic": paramagnetic}
    inside = Measure("fraction converged, ordered", take, over(ordered, reading), low=SIGMAS[1], share=True)
    return inside, *(Measure(f"fraction converged, {name}", take, over(phase, reading), high=SIGMAS[1], share=True)
                     for name, phase in phases.items())  # fmt: skip


def _shares(name: str, statement: str, readings: str) -> tuple[Measure, ...]:
    """Of students of the ordered phase, of which the first reading is judged."""
    return tuple(
        Measure(f"share of students with {name} {statement}, ordered ({reading})", on(f"{name}_{reading}"),
                (lambda x, of=f"{name}_{reading}": 1 - over(ordered, of)(x)) if statement == "> 0"
                else over(ordered, f"{name}_{reading}"), low=SIGMAS[1] if k == 0 else -math.inf, share=True)
        for k, reading in enumerate(readings.split())
    )  # fmt: skip


_start = initial(on("initial_gradient", 2**-5))
_control = replace(mirrored("temperature"), words="positive control: the coldest cells in the place of the hottest")
_forgotten = Measure("decades from T_c to T at which G is halved", on("drift G_t0"), misfit("T_c"))

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "initial_edge", "Upper edge x_+ of the initial spectrum, both ends of the sigma_W axis", "Sec 4, below Eq 4.2",
        "0.046 at 1/sigma_W = 8; 1.9e5 at 2^-8", 0, _edges(8, 0.046) + _edges(2**-8, 1.9e5),
        "Eq 4.2 is for infinite matrices; for 16 x 32 the mean of the largest eigenvalue lies about a tenth below it",
        afterwards=True, null=permuted("sigma_w"),
    ),
    Claim(
        "initial_gradient", "Gradient at the start: small for strong disorder, a plateau for weak", "Sec 3.2, Fig 4 right",
        "small at 1/sigma_W ~ 1e-2; level from 1/2 up", 0,
        (
            Measure("gradient near 1e-2 / plateau", _start, small_start, high=10**-_HALF_DECADE),
            Measure("variance of log10 gradient along the plateau, beyond error",
                    initial(centred("initial_gradient", 2**-5, 0.5)), beyond_error, high=_TENTH),
        ),
        "level is within a tenth of a decade", afterwards=True, null=permuted("sigma_w"),
    ),
    Claim(
        "initial_spread", "Width of the initial spectrum at 1/sigma_W = 8", "Sec 4.1, footnote", "(n2-1) S(0) ~ 0.04", 0,
        (Measure("(n2-1) S(0)", initial(on("spread", 2**-5, 8)), lambda x: x.spread, 0.035, 0.045),),
        null=wider,
    ),
    Claim(
        "spacing_bound", "S(0) is bounded by the Marchenko-Pastur spacing", "Sec 4.2, Eq 4.14", "no draw exceeds it", 0,
        (Measure("share of draws that exceed the bound", initial(on("beyond_bound")), lambda x: x.beyond_bound.mean(PLANE),
                 high=1 - SIGMAS[1], share=True),),
        "the bound is for infinite matrices; exceeded by at most one draw in twenty counts as kept", afterwards=True,
        null=wider,
    ),
    Claim(
        "loss_range", "Range of the mean test loss over the plane", "Sec 3.2, Fig 2", "1e-1 to 1e-7", PAPER_STEPS,
        (
            Measure("log10 of largest loss", on("halves"), extreme(lowest=False), -1.5, -0.5),
            Measure("log10 of smallest loss", on("halves"), extreme(lowest=True), -7.5, -6.5),
            Measure("decades by which the plain minimum is lower", on("halves loss"), chosen),
        ),
        "losses without the factor 1/2, as in the published map; each cell is chosen on half of the seeds and read off the "
        "other half, for the lowest of 144 noisy means is low",
        null=at_start,
    ),
    Claim(
        "cold_success", "Loss and gradient are both small at T ~ 0.1 and 1/sigma_W = 8", "Sec 3.2, Fig 3",
        "both small, learning completed", PAPER_STEPS,
        tuple(Measure(f"log10 of {name} at T = 1/8 over that at T = 64", on(name, None, 8),
                      between(name, 2**-3, 64), high=-1.0)
              for name in ("loss", "gradient")),
        "small is a tenth of what the hottest cell has", afterwards=True, null=mirrored("temperature"),
    ),
    Claim("loss_jump", "Rapid rise of the loss along T at 1/sigma_W = 8", "Sec 3.2, Fig 4 left", "at T ~ 1", PAPER_STEPS,
          _jump("loss"), afterwards=True, null=mirrored("temperature")),
    Claim("gradient_jump", "Rapid rise of the gradient along T at 1/sigma_W = 8", "Sec 3.2, Fig 4 centre", "at T ~ 1",
          PAPER_STEPS, _jump("gradient"), afterwards=True, null=mirrored("temperature")),
    Claim(
        "best_temperature", "The best T lies just below the transition (1/sigma_W = 8)", "Sec 3.2", "right before it",
        PAPER_STEPS,
        (Measure("decades from the T of the lowest loss to that of the loss's rise", on("loss", None, 8), best_below_rise,
                 0.0, 1.0),),
        "just below is within a decade", afterwards=True, null=mirrored("temperature"),
    ),
    Claim(
        "hot_independence", "No dependence on sigma_W at the highest temperature", "Sec 3.2, Fig 3", "lines meet at T = 64",
        PAPER_STEPS,
        tuple(Measure(f"variance of log10 {name} along sigma_W at T = 64, beyond error", centred(name, 64), beyond_error,
                      high=_TENTH)
              for name in ("loss", "gradient")),
        "none is less than a tenth of a decade", afterwards=True, null=_control,
    ),
    Claim(
        "paramagnetic_fails", "The paramagnetic phase fails to learn", "Sec 3.2, Fig 3", "large loss, lack of convergence",
        PAPER_STEPS,
        (Measure("share of the teacher's variance left unexplained", on("loss"), unexplained(paramagnetic), low=0.5),),
        "failing is leaving more than half of it", afterwards=True, null=mirrored("temperature"),
    ),
    Claim(
        "temperature_alone", "Learning rate and batch size enter as T alone", "Sec 2.4", "T = learning rate / batch size",
        None,
        (Measure("decades of T between the loss's rises of all batch sizes, 1/sigma_W = 8", batch_sizes, batch_dependence(),
                 high=_HALF_DECADE),
         Measure("the same of the two smallest", batch_sizes, batch_dependence(2))),
        afterwards=True, null=by_rate, over="study",
    ),
    Claim(
        "jamming_line", "Something happens at 1/sigma_W = sqrt 2 (T = 1/8)", "Secs 2.3 and 5, Fig 9", "1/sigma_W = 1.4",
        PAPER_STEPS,
        tuple(Measure(f"log10 of 1/sigma_W where {words}", on(name, 2**-3), disorder_line(of),
                      math.log10(PAPER_JAMMING_LINE / 2), math.log10(PAPER_JAMMING_LINE * 2))
              for name, words, of in (("G_t0", "G = 1/2", lambda x: x.G_t0 - 0.5),
                                      ("loss", "log loss is halfway", halfway))),
        "within a factor of two, a cell of the grid; the lines move to larger sigma_W as training goes on", afterwards=True,
        null=permuted("sigma_w"),
    ),
    Claim(
        "jammed_gradient", "Loss and gradient remain large in the jammed phase, beside the ordered one", "Sec 3.2, Fig 3",
        "both larger than ordered", PAPER_STEPS,
        tuple(Measure(f"mean of log10 {name}, jammed - ordered", on(name), above(log_over, name, jammed, ordered),
                      low=_HALF_DECADE)
              for name in ("loss", "gradient")),
        "large is half a decade above the ordered phase", afterwards=True, null=mirrored("sigma_w"),
    ),
    Claim(
        "jammed_progress", "... and learning makes no progress there", "Sec 3.2", "active but without progress", PAPER_STEPS,
        (Measure("mean of log10 loss, jammed, end - start", on("loss"), since_start(log_over(jammed, "loss")),
                 low=-_HALF_DECADE),),
        "progress is half a decade", afterwards=True, null=mirrored("sigma_w"),
    ),
    Claim(
        "memory", "Memory is kept in the jammed phase and lost in the paramagnetic one", "Sec 3.2, Fig 5 left",
        "G(t_f, 0) kept in the jammed phase alone", PAPER_STEPS,
        (
            Measure("G, jammed", on("G_t0"), over(jammed, "G_t0"), low=0.5),
            Measure("C, jammed", on("C"), over(jammed, "C"), low=0.5),
            Measure("C, paramagnetic", on("C"), over(paramagnetic, "C"), high=0.5),
        ),
        "at small sigma_W G is small from the start, for features are: what is lost is seen in C, G normalised",
        afterwards=True, null=at_start,
    ),
    Claim(
        "memory_ordered", "... and lost in the ordered phase", "Sec 3.2, Fig 5 left", "G(t_f, 0) lost", PAPER_STEPS,
        (
            Measure("C, ordered", on("C"), over(ordered, "C"), high=0.5),
            Measure("G, ordered, end - start", on("G_t0"), since_start(over(ordered, "G_t0")), high=0.0),
        ),
        afterwards=True, null=at_start,
    ),
    Claim(
        "alignment", "Alignment of features and field is strongest in the ordered phase", "Sec 3.2, Fig 5 right",
        "strongest in the well-trained region", PAPER_STEPS,
        tuple(Measure(f"ordered - {name}", on("alignment"), above(over, "alignment", ordered, phase), low=0.0)
              for name, phase in (("jammed", jammed), ("paramagnetic", paramagnetic))),
        null=at_start,
    ),
    Claim(
        "rate_order", "The level spacing grows slowest jammed, fastest paramagnetic, in the last decade of steps",
        "Sec 4.1, Fig 7", "jammed < ordered < paramagnetic", PAPER_STEPS,
        (
            Measure("decades a decade, ordered - jammed", on("spread"), above(growth, "spread", ordered, jammed), low=0.0),
            Measure("decades a decade, paramagnetic - ordered", on("spread"), above(growth, "spread", paramagnetic, ordered),
                    low=0.0),
        ),
        "the paper's rate is that since the start, which is mostly the first kick and in this order after a single step",
        null=at_start,
    ),
    Claim(
        "stationary", "Outside the hot phase the level spacing stabilises after the initial stage", "Sec 4.2, Fig 6",
        "S stationary; in the hot phase it keeps increasing", PAPER_STEPS,
        tuple(Measure(f"decades of S a decade of steps, {name}", on("spread"), growth(phase, "spread"), -0.1, 0.1)
              for name, phase in (("jammed", jammed), ("ordered", ordered))),
        "stationary is by less than a tenth of a decade", afterwards=True, null=_control,
    ),
    Claim(
        "hot_growth", "... and in the hot phase it keeps increasing", "Sec 4.2, Fig 6 centre", "S increases", PAPER_STEPS,
        (Measure("decades of S a decade of steps, paramagnetic", on("spread"), growth(paramagnetic, "spread"), low=0.0),),
        null=at_start,
    ),
    Claim("growth_hottest", "Rate and final width of the spectrum at T = 64, 1/sigma_W = 8", "Sec 4.1, footnote",
          "2e-4 per epoch; (n2-1) S(t_f) ~ 1e6", PAPER_STEPS, _growth(64), null=at_start),
    Claim("growth_fig6", "The same in the cell of Fig 6 that the footnote cites, T = 4, 1/sigma_W = 8",
          "Sec 4.1, footnote", "2e-4 per epoch; (n2-1) S(t_f) ~ 1e6", PAPER_STEPS, _growth(4), null=at_start),
    Claim(
        "spectrum_flow", "Spectrum of the ordered phase flows towards the teacher's (T = 2^-5, 1/sigma_W = 8)",
        "Sec 4, Fig 6 left", "the distribution flows towards the target", PAPER_STEPS,
        (
            Measure("distance from the teacher's spectrum / that at the start", on("distance", 2**-5, 8),
                    lambda x: x.distance / x.distance.sel(step=0, drop=True), high=1.0),
            Measure("levels of 16 that have at least doubled", on("doubled", 2**-5, 8), lambda x: x.doubled),
        ),
        null=at_start,
    ),
    Claim(
        "spectrum_arrival", "... and arrives there by the end, as tr X says", "Sec 3 and 4, Fig 6 left",
        "an equilibrium at the end of training", PAPER_STEPS,
        (Measure("log10 of tr X / tr X of the teacher", on("trace", 2**-5, 8), logarithm("trace"), -_HALF_DECADE,
                 _HALF_DECADE),),
        null=at_start,
    ),
    Claim(
        "restoring", "K_S < 0 near a minimum of the loss", "Sec 4.2, below Eq 4.9", "K_S < 0", PAPER_STEPS,
        _shares("K_S", "< 0", "x_basis"),
        "in the basis of X, as perturbation theory has it; in its own basis K_S is a spread and never negative",
        afterwards=True, null=opposite("K_S"),
    ),
    Claim(
        "noise", "V_S > 0", "Sec 4.2, below Eq 4.9", "assumed", PAPER_STEPS, _shares("V_S", "> 0", "text released x_basis"),
        "where it is not, a student satisfies Eq 4.15 for free; as a variance of the rotated gradient it always is",
        afterwards=True, null=opposite("V_S"),
    ),
    Claim(
        "boundary_drift", "68 % line (reading drift): falls with 1/sigma_W and separates the phases at 1/sigma_W = 8",
        "Sec 4.2, Figs 8 and 9", "between the ordered and the hot phase", PAPER_STEPS,
        (
            Measure("d log T_c / d log(1/sigma_W)", on("drift"), boundary_slope, high=0.0),
            Measure("log10 of T_c / T of the loss's rise at 1/sigma_W = 8", on("drift loss", None, 8), boundary_to_loss,
                    -_HALF_DECADE, _HALF_DECADE),
        ),
        "K_S in its own basis is never negative: drift says how large the drift is, not that it restores",
        null=hot_converged,
    ),
    Claim(
        "boundary_memory", "... and tracks the loss of memory (better than any constant T does)", "Sec 4.2, Fig 8 centre",
        "tracks the transition of G especially well", PAPER_STEPS,
        (
            Measure("misfit of T_c - that of the best constant, in decades", on("drift G_t0"),
                    lambda x: misfit("T_c")(x) - misfit("constant")(x), high=-0.1),
            _forgotten,
            Measure("the same of a constant T = 1", on("drift G_t0"), misfit("T = 1")),
            Measure("the same of the best constant", on("drift G_t0"), misfit("constant")),
        ),
        "better is by a tenth of a decade", afterwards=True, null=constant_line,
    ),
    Claim(
        "boundary_released", "Two-sigma line (reading released, the published one): only the ordered corner is enclosed",
        "Sec 4.2, Fig 8 centre", "2 and 3 sigma lines enclose the ordered phase", PAPER_STEPS, _lines("released"),
        null=hot_converged,
    ),
    Claim(
        "three_sigma", "... and so by the three-sigma line", "Sec 4.2, Fig 8 centre", "essentially all models converge",
        PAPER_STEPS,
        (Measure("fraction converged, ordered", on("released"), over(ordered, "released"), low=SIGMAS[2], share=True),),
        "a share of seeds is known to one seed: below 667 of them 99.7 % is not told from all", null=hot_converged,
    ),
    Claim(
        "two_sigma_drift", "The same line in the reading drift", "Sec 4.2, Fig 8 centre",
        "2 and 3 sigma lines enclose the ordered phase", PAPER_STEPS, _lines("drift"), null=hot_converged,
    ),
)  # fmt: skip
