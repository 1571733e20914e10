"""The notebooks run, and the outputs that stand in them are those of the source that stands in them."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PICTURES = {"quickstart": 3, "your_network": 4, "batch_size": 1, "spectra": 3}
_NUMBER = re.compile(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell put out, by MIME type or stream."""
    return [sorted(output["data"]) if "data" in output else output.get("name", "error") for output in cell.outputs]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_all_of_them_are_here():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(PICTURES)


@pytest.mark.long
@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_runs_and_says_what_it_said(name, tmp_path):
    committed = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert [cell.execution_count for cell in code_cells(committed)] == list(range(1, len(code_cells(committed)) + 1))
    assert (
        sum(kind == ["image/png", "text/plain"] for cell in code_cells(committed) for kind in kinds(cell)) == PICTURES[name]
    )
    again = NotebookClient(copy.deepcopy(committed), timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    for then, now in zip(code_cells(committed), code_cells(again), strict=True):
        assert kinds(then) == kinds(now)
        assert _NUMBER.sub("", printed(then)).split() == _NUMBER.sub("", printed(now)).split()
        # Another engine or machine may round a digit differently.
        numbers = ([float(n.replace(",", "")) for n in _NUMBER.findall(printed(cell))] for cell in (then, now))
        assert next(numbers) == pytest.approx(next(numbers), rel=0.5)
    assert not list(tmp_path.iterdir()), "it leaves no files behind"
