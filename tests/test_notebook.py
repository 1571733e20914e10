"""The quickstart runs, and the outputs that stand in it are those of the source that stands in it."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

QUICKSTART = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"
_NUMBER = re.compile(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell put out, by MIME type or stream."""
    return [sorted(output["data"]) if "data" in output else output.get("name", "error") for output in cell.outputs]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_the_quickstart_runs_and_says_what_it_said(tmp_path):
    committed = nbformat.read(QUICKSTART, as_version=4)
    assert [cell.execution_count for cell in code_cells(committed)] == list(range(1, len(code_cells(committed)) + 1))
    assert sum(kind == ["image/png", "text/plain"] for cell in code_cells(committed) for kind in kinds(cell)) == 3
    again = NotebookClient(copy.deepcopy(committed), timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    for then, now in zip(code_cells(committed), code_cells(again), strict=True):
        assert kinds(then) == kinds(now)
        assert _NUMBER.sub("", printed(then)).split() == _NUMBER.sub("", printed(now)).split()
        # Another engine or machine may round a digit differently.
        numbers = ([float(n.replace(",", "")) for n in _NUMBER.findall(printed(cell))] for cell in (then, now))
        assert next(numbers) == pytest.approx(next(numbers), rel=0.5)
    assert not list(tmp_path.iterdir()), "it leaves no files behind"
