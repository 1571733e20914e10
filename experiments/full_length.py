"""The paper at its own length: the reference that ships with the package, and its figures beside those at desk length.

    python -m phasejax run --preset paper --grid.seeds 16 --shard 0/8 --out runs/full      # and 1/8 ... 7/8
    python -m experiments.full_length add runs/full/seeds-0-1.nc                           # whenever a slab is finished
    python -m experiments.full_length draw --full runs/full/seeds-*.nc --desk runs/desk.nc # docs/images/full_length/
    python -m experiments.full_length numbers --desk runs/desk.nc                          # the table of docs/full_length.md

`add` makes phasejax/studies/paper/full_length.nc, or adds to it the seeds that it does not have; the files of those that it
has are no longer needed. Every scalar is kept of every seed, as 16-bit whole numbers with a scale and an offset that do not
depend on the data, so that errors keep the covariance of seeds and adding seeds changes nothing of those that are there. Of
the eigenvalues a mean over the seeds is kept and its standard error, which with the number of seeds are all that more seeds
need.
"""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import tomli_w
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from experiments import pages
from phasejax import ExperimentError, RunError, StoreError
from phasejax.analysis import boundaries
from phasejax.analysis.comparison import in_phase
from phasejax.analysis.length import against_training
from phasejax.analysis.phases import PHASES
from phasejax.analysis.run import until
from phasejax.analysis.spectrum import level_spacing
from phasejax.analysis.statistics import log10, sound, summary
from phasejax.claims.writing import symbols
from phasejax.figures.length import training_needed
from phasejax.figures.style import STYLE_SHEET, file_name
from phasejax.files.durable import atomically
from phasejax.files.reading import load_run
from phasejax.studies.paper.figures import FIGURES

REFERENCE = Path("phasejax/studies/paper/full_length.nc")
PAGE, PICTURES = Path("docs/full_length.md"), Path("docs/images/full_length")

LOGARITHMS = ("test_loss", "train_loss", "gradient_norm", "full_gradient_norm", "level_spacing")
"""Kept as log10, from 1e-12 to 1e8, to 0.04 %. What is less stands at the end."""
CORRELATIONS = ("G_t0", "G_00", "G_tt", "alignment", "feature_overlap", "teacher_overlap")
"""Between -1 and 1, kept to 1.5e-5."""
ANSWERS = ("converged", "negative_K_S", "negative_V_S")
"""Of the criterion, in all readings."""
LEFT_OUT = ("eigenvalues", "K_S", "V_S", "D_S", "restoring", "weights", "feature_density")

_SAME = ("phasejax_version", "identity", "engine", "precision", "matmul_precision", "versions")
"""Attributes in which slabs must agree to be one run, as where slabs are merged."""
_OWN = ("command_line", "contents", "coordinates", "format_version")
"""Attributes of a slab alone."""
_ENDS = (-12.0, 8.0)
_WHOLE = {"dtype": "int16", "_FillValue": np.int16(-(2**15))}
_SQUEEZED = {"zlib": True, "complevel": 9, "shuffle": True}


def reduced(run: xr.Dataset) -> xr.Dataset:
    """What is kept of a run, or of some of its seeds."""
    spacing = level_spacing(run)
    kept = {name: sound(run, run[name]) for name in (*LOGARITHMS[:3], *CORRELATIONS)}
    kept |= {"level_spacing": sound(run, spacing), "full_gradient_norm": run.full_gradient_norm}
    kept |= {name: kept[name].assign_attrs(run[name].attrs) for name in kept if name in run}
    kept["level_spacing"].attrs = spacing.attrs
    readings = [boundaries.converged(run, str(reading)) for reading in run.reading.values]
    kept["converged"] = xr.concat(readings, run.reading)
    kept["converged"].attrs = {"long_name": "whether the student satisfies the criterion", "paper_equation": "4.15"}
    for name in ("K_S", "V_S"):
        kept[f"negative_{name}"] = (run[name] < 0).assign_attrs(long_name=f"whether {name} is negative")
    levels = sound(run, run.eigenvalues)
    with np.errstate(invalid="ignore"):
        error = levels.std("seed", ddof=1) / np.sqrt(levels.count("seed"))
    kept["eigenvalues_mean"] = levels.mean("seed").assign_attrs(run.eigenvalues.attrs, cell_methods="seed: mean")
    kept["eigenvalues_error"] = error.assign_attrs(long_name="standard error of eigenvalues_mean")
    kept |= {name: run[name] for name in ("diverged_step", "target_eigenvalues")}
    return xr.Dataset(kept, attrs=run.attrs).transpose(..., "reading")


def joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Reductions of different seeds as the reduction of all of them.

    Raises:
        RunError: they are not of one run.
    """
    first, *others = parts
    for part in others:
        for name in (*_SAME, "run"):
            one, other = (_run(of) if name == "run" else of.attrs.get(name) for of in (first, part))
            if one != other:
                raise RunError(f"Seeds {_labels(first)} and {_labels(part)} are not of one run: their {name} differs.")
        if not first.step.equals(part.step):
            raise RunError(f"Seeds {_labels(first)} and {_labels(part)} have other records.")
    by_seed = [name for name, variable in first.data_vars.items() if "seed" in variable.dims]
    whole = xr.concat([part[by_seed] for part in parts], "seed", coords="minimal", compat="override").sortby("seed")
    mean, squares, count = _moments(first)
    for part in others:
        more_mean, more_squares, more = _moments(part)
        share = more / (count + more).clip(min=1)
        # Sums of squares about the mean add up, with the distance of the means (Chan, Golub, LeVeque 1983).
        squares = squares + more_squares + (more_mean - mean) ** 2 * count * share
        mean, count = mean + (more_mean - mean) * share, count + more
    error = (squares / (count * (count - 1)).where(count > 1)) ** 0.5
    for name, values in (("eigenvalues_mean", mean.where(count > 0)), ("eigenvalues_error", error)):
        whole[name] = values.transpose(*first[name].dims).assign_attrs(first[name].attrs)
    return whole.drop_attrs(deep=False).assign_attrs(_attributes(parts, whole.seed.values))


def _moments(part: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Mean of the eigenvalues, sum of squares about it, and how many students they are of."""
    mean, error = (part[f"eigenvalues_{name}"].astype(float).fillna(0) for name in ("mean", "error"))
    count = part.level_spacing.count("seed")
    return mean, error**2 * count * (count - 1), count


def _labels(part: xr.Dataset) -> str:
    return ", ".join(map(str, part.seed.values))


def _run(part: xr.Dataset) -> dict[str, Any]:
    """The experiment without its seeds."""
    tables = tomllib.loads(part.attrs["experiment"])
    return tables | {"grid": {k: v for k, v in tables["grid"].items() if k not in ("seeds", "first_seed")}}


def _attributes(parts: Sequence[xr.Dataset], labels: np.ndarray) -> dict[str, str]:
    """Those of the runs, each said once; the experiment has the seeds from the first to the last."""
    kept = {name: "\n".join(dict.fromkeys(str(part.attrs[name]) for part in parts if name in part.attrs))
            for name in parts[0].attrs if name not in _OWN}  # fmt: skip
    tables = tomllib.loads(parts[0].attrs["experiment"])
    tables["grid"] |= {"first_seed": int(labels.min()), "seeds": int(labels.max() - labels.min()) + 1}
    left_out = "; ".join(f"{name} is not recorded: a reference keeps what is made of it" for name in LEFT_OUT)
    made = {"experiment": tomli_w.dumps(tables), "not_recorded": left_out, "title": "The paper at its own length"}
    version = {"format_version": parts[0].attrs["format_version"]} if "format_version" in parts[0].attrs else {}
    return kept | made | version | {"created": max(part.attrs["created"] for part in parts)}


def write(reference: xr.Dataset, file: Path) -> None:
    """Write a reference, whole or not at all."""
    low, high = _ENDS
    encoding: dict[str, dict[str, Any]] = {}
    for name in LOGARITHMS:
        logarithm = log10(reference[name].clip(10.0**low, 10.0**high)).assign_attrs(reference[name].attrs)
        reference = reference.drop_vars(name).assign({f"log10_{name}": logarithm})
        packed = {"scale_factor": (high - low) / (2**16 - 2), "add_offset": (low + high) / 2}
        encoding[f"log10_{name}"] = _WHOLE | packed | _SQUEEZED
    encoding |= {name: _WHOLE | {"scale_factor": 1 / (2**15 - 1), "add_offset": 0.0} | _SQUEEZED for name in CORRELATIONS}
    encoding |= dict.fromkeys(ANSWERS, _SQUEEZED)
    encoding |= {f"eigenvalues_{name}": {"dtype": "float32"} | _SQUEEZED for name in ("mean", "error")}
    encoding["diverged_step"] = {"dtype": "int32"} | _SQUEEZED
    for variable in reference.variables.values():
        variable.encoding = {}
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomically(file, file.parent) as temporary:
        reference.to_netcdf(temporary, engine="netcdf4", encoding=encoding)


def add(slabs: Sequence[Path], file: Path = REFERENCE) -> xr.Dataset:
    """Make a reference, or add to it the seeds that it does not have.

    Returns:
        The reference.
    """
    parts = [load_run(file)] if file.exists() else []
    there = set(parts[0].seed.values.tolist()) if parts else set()
    for slab in slabs:
        run = until(load_run(slab), None)
        new = [label for label in run.seed.values.tolist() if label not in there]
        there |= set(new)
        if new:
            parts.append(reduced(run.sel(seed=new)))
    if len(parts) > file.exists():
        write(joined(parts), file)
    return load_run(file)


def draw(full: Sequence[Path], desk: Path, folder: Path = PICTURES) -> list[Path]:
    """The paper's figures at both lengths as small PNGs, `fig2-desk.png` and `fig2-full.png`."""
    runs = {"desk": load_run(desk), "full": together([load_run(slab) for slab in full])}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for length, run in runs.items():
        for one in [*(one for one in FIGURES if one.number), training_needed]:
            written.append(folder / f"{file_name(one)}-{length}.png")
            _save(one(run), written[-1])
    return written


def _save(figure: Figure, file: Path) -> None:
    with matplotlib.style.context(STYLE_SHEET):
        figure.savefig(file, dpi=130)
    # A palette takes a third of the room.
    Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def together(runs: Sequence[xr.Dataset]) -> xr.Dataset:
    """Slabs of one run as one, in memory."""
    whole = xr.concat(runs, "seed", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override")
    return whole.sortby("seed")


def numbers(run: xr.Dataset) -> xr.Dataset:
    """What the page says of a run or a reference in numbers, each (bound, step): centre, low and high."""
    lines = against_training(run)
    found = {
        "lowest mean test loss": lines.lowest_loss,
        "its T": lines.lowest_T.sel(bound="centre"),
        "its 1/sigma_W": lines.lowest_inverse_sigma_w.sel(bound="centre"),
        "T_c (68 %, drift) at 1/sigma_W = 8": lines.T_c,
        "sigma_W where G = 1/2, T = 2^-3": 1 / lines.memory_line,
        "sigma_W where log loss is halfway, T = 2^-3": 1 / lines.halfway_line,
    }
    for name in _IN_PHASES:
        found |= {f"{name}, {phase}": _with_error(in_phase(run, name, phase)) for phase in PHASES}
    for temperature in (4.0, 64.0):
        cell = run.sel(temperature=temperature, sigma_w=1 / 8)
        width = log10(level_spacing(cell) * (run.sizes["level"] - 1))
        found[f"log10 (n2 - 1)S, T = {temperature:g}, 1/sigma_W = 8"] = _with_error(width)
    trained = {name: of.sel(step=lines.step).reset_coords(drop=True) for name, of in found.items()}
    return xr.Dataset(trained).sortby("step")


_IN_PHASES = ("log10 test loss", "log10 training loss", "log10 gradient", "memory G(t,0)", "alignment")
_POWERS = range(3, 9)
"""Of ten, in steps: the lengths in the tables."""


def _with_error(values: xr.DataArray) -> xr.DataArray:
    """Mean over the seeds with its standard error on either side."""
    ends = summary(values, "mean")
    return xr.concat(ends, xr.Variable("bound", ["centre", "low", "high"]), coords="minimal", compat="override")


def tabled(desk: xr.Dataset, reference: xr.Dataset) -> str:
    """The numbers of both as a Markdown table: desk at its end, the reference at whole decades."""
    columns = {f"desk, {desk.sizes['seed']} seeds: 10⁵": numbers(desk).sel(step=10**5)}
    found = numbers(reference)
    for k in _POWERS:
        words = f"reference, {reference.sizes['seed']} seeds: " if k == _POWERS[0] else ""
        columns[f"{words}10^{k}"] = found.sel(step=10**k)
    rows = [[str(name), *(_cell(of[name]) for of in columns.values())] for name in found.data_vars]
    return pages.table([["", *columns], *rows], numbers=True)


def changes(reference: xr.Dataset) -> str:
    """By how much each number of a phase changes over each decade of steps, seed by seed, as a Markdown table."""
    rows = [["change over the decade that ends at", *(f"10^{k}" for k in _POWERS[1:])]]
    for name in _IN_PHASES:
        for phase in PHASES:
            change = in_phase(reference, name, phase).sel(step=[10**k for k in _POWERS]).diff("step")
            rows.append([f"{name}, {phase}", *(_cell(_with_error(of)) for of in change.transpose("step", ...))])
    return pages.table(rows, numbers=True)


def _cell(value: xr.DataArray) -> str:
    """A number with half the width of its interval, to the latter's two digits; alone if it has none."""
    if not value.dims:
        return f"{float(value):.3g}"
    centre, low, high = (float(value.sel(bound=bound)) for bound in ("centre", "low", "high"))
    if not np.isfinite(centre):
        return "none"
    half = abs(high - low) / 2
    if not half > 0:
        return f"{centre:.3g}"
    scale = 10.0 ** np.floor(np.log10(abs(centre))) if abs(centre) < 1e-3 and half < 1e-3 else 1.0
    digits = max(0, 1 - int(np.floor(np.log10(half / scale))))
    number = f"{centre / scale:.{digits}f} +- {half / scale:.{digits}f}"
    return symbols(number if scale == 1 else f"({number})·10^{np.log10(scale):.0f}")


def main(argv: Sequence[str] | None = None) -> None:
    """Add to the reference, or draw."""
    parser = argparse.ArgumentParser(prog="python -m experiments.full_length", allow_abbrev=False,
                                     description="The paper at its own length: a reference, and figures.")  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="make the reference of finished slabs, or add to it")
    adding.add_argument("slabs", nargs="+", type=Path)
    drawing = commands.add_parser("draw", help="draw the paper's figures at both lengths")
    drawing.add_argument("--full", nargs="+", type=Path, required=True)
    drawing.add_argument("--desk", type=Path, required=True)
    counting = commands.add_parser("numbers", help="put the numbers of both lengths on the page")
    counting.add_argument("--desk", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        if options.command == "add":
            made = add(options.slabs)
            size = REFERENCE.stat().st_size / 1e6
            print(f"{REFERENCE}: seeds {_labels(made)}, {made.sizes['step']} records, {size:.2f} MB.")
        elif options.command == "numbers":
            reference = load_run(REFERENCE)
            pages.put("numbers", f"{tabled(load_run(options.desk), reference)}\n\n{changes(reference)}", PAGE)
            print(PAGE)
        else:
            for path in draw(options.full, options.desk):
                print(path)
    except (ExperimentError, RunError, StoreError) as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
