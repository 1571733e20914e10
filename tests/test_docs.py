"""The documentation: its commands parse, its Python runs, its links lead somewhere, and it has every public name."""

import argparse
import ast
import importlib
import itertools
import re
import shlex
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import phasejax as pj
from phasejax.arguments import _described, applied, parse, split
from phasejax.cli.looking import Compare, Explore, Figures, Merge, Status
from phasejax.cli.training import Advise, Run, StudyOptions

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # experiments/ is in the checkout only
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
_BLOCK = re.compile(r"^(?P<before>[^\n]*)\n+```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, kind):
    """Blocks of a page in a language, but those below the comment <!-- not run: WHY -->, with the line each begins at."""
    content = "\n" + page.read_text()
    for found in _BLOCK.finditer(content):
        if found["kind"] == kind and not re.fullmatch(r"<!-- not run: .+ -->", found["before"]):
            yield content.count("\n", 0, found.start("text")), found["text"]


OPTIONS = {"run": Run, "advise": Advise, "study": StudyOptions, "status": Status, "merge": Merge, "figures": Figures,
           "compare": Compare, "explore": Explore}  # fmt: skip


def read(arguments):
    """Let the command line read arguments of `phasejax`, without doing what they say."""
    name, *rest = arguments
    rest, given = split(rest) if name in ("run", "advise") else (rest, {})
    options = parse(OPTIONS[name], rest, name)
    if given:
        # What a settings file would say of them is not known.
        applied(pj.Experiment.preset(options.preset or "desk"), given)


class Read(Exception):
    """Arguments have been read."""


def read_script(module, arguments, monkeypatch):
    """The same for a script with a parser of its own."""

    def stop(parser, given=None, namespace=None):
        found, unknown = parser.parse_known_args(given, namespace)
        assert not unknown, unknown
        raise Read(found)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Read):
        importlib.import_module(module).main(arguments)


def check_command(words, monkeypatch):
    command, *rest = words
    if command == "phasejax":
        read(rest)
    elif command.endswith("python") and rest[0] == "-m":
        module, *rest = rest[1:]
        if module == "phasejax":
            read(rest)
        elif module in ("experiments.grid", "experiments.paper_figures"):
            read(["run" if module == "experiments.grid" else "figures", *rest])
        elif module.startswith("experiments.extensions."):
            assert importlib.util.find_spec(module)
        else:
            read_script(module, rest, monkeypatch)
    elif command == "make":
        targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= {*targets}, targets
    elif command == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert rest[0] == "install"
        assert all(extra in extras for word in rest[1:] for extra in re.findall(r"^phasejax\[(\w+)\]$", word))
    elif command == "srun":
        check_command(rest[next(k for k, word in enumerate(rest) if word.endswith("python")) :], monkeypatch)
    elif command == "sbatch":
        assert (ROOT / next(word for word in rest if not word.startswith("-"))).exists()
    else:
        raise AssertionError(f"no command of this project: {shlex.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_what_the_command_line_reads(page, monkeypatch):
    for line, text in blocks(page, "sh"):
        for command in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(command, comments=True):
                try:
                    check_command(words, monkeypatch)
                except BaseException as error:
                    raise AssertionError(f"{page}:{line}: {command}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        path = "".join(target).partition("#")[0]
        if path and "://" not in path:
            assert (page.parent / path).is_file(), f"{page} has a link to {path}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_settings_files_are_some(page):
    for _, text in blocks(page, "toml"):
        read_toml = pj.Study.from_toml if "[base" in text else pj.Experiment.from_toml
        read_toml(text)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_is_python_and_names_what_there_is(page):
    for line, text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pj":
                assert hasattr(pj, node.attr), f"{page}:{line}: pj.{node.attr}"


def test_the_index_of_studies_has_each_of_them():
    listed = re.findall(r"^\| \[.+?\]\((\w+)\.md\) \|", (ROOT / "docs" / "studies" / "index.md").read_text(), re.MULTILINE)
    studies = [path.parent.name for path in (ROOT / "phasejax" / "studies").glob("*/study.toml")]
    assert sorted(listed) == sorted(studies)


def test_the_reference_has_every_public_name():
    named = re.findall(r"^\.\. auto\w+:: phasejax\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted([*pj.__all__, "open"])


@pytest.mark.parametrize("name", [*pj.__all__, "open"])
def test_every_public_name_says_what_it_is(name):
    value = getattr(pj, name)
    assert value.__doc__ or name == "Advance"
    if isinstance(value, type):
        fields = getattr(value, "_fields", getattr(value, "__dataclass_fields__", ()))
        assert set(fields) <= set(_described(value))
        own = [of for named, of in vars(value).items() if not named.startswith("_") and callable(getattr(of, "fget", of))]
        assert all(of.__doc__ for of in own)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the runs that pages open: all of them one, of the paper's plane, small and short."""
    folder = tmp_path_factory.mktemp("pages")
    quick = pj.Experiment.preset("quick")
    short = replace(quick, grid=replace(quick.grid, seeds=2), schedule=replace(quick.schedule, steps=1000))
    pj.simulate(short, folder / "runs" / "desk").close()
    for name in ("mine.nc", "paper-quick/base.nc"):
        (folder / "runs" / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "runs" / "desk.nc", folder / "runs" / name)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=name) for page, name in zip(PAGES, NAMES, strict=True) if [*blocks(page, "python")]]
)
def test_python_runs(page, runs, tmp_path, monkeypatch):
    """The blocks of a page one after another, as somebody does who types them in."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for line, text in blocks(page, "python"):
        try:
            exec(compile("\n" * line + text, str(page), "exec"), namespace)
        finally:
            plt.close("all")


def test_a_block_that_is_wrong_is_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    for kind, text, test in (
        ("sh", "phasejax run --grid.sedes 3", lambda: test_commands_are_what_the_command_line_reads(page, monkeypatch)),
        ("sh", "phasejax status", lambda: test_commands_are_what_the_command_line_reads(page, monkeypatch)),
        ("sh", "make paper-figure", lambda: test_commands_are_what_the_command_line_reads(page, monkeypatch)),
        ("sh", 'pip install "phasejax[x]"', lambda: test_commands_are_what_the_command_line_reads(page, monkeypatch)),
        ("python", "pj.simulat", lambda: test_python_is_python_and_names_what_there_is(page)),
        ("toml", "[grid]\nsedes = 3", lambda: test_settings_files_are_some(page)),
    ):
        page.write_text(f"text\n\n```{kind}\n{text}\n```\n")
        with pytest.raises((AssertionError, pj.ExperimentError)):
            test()
        page.write_text(f"<!-- not run: it is wrong -->\n```{kind}\n{text}\n```\n")
        test()
    assert len([*itertools.chain.from_iterable(blocks(page, kind) for page in PAGES for kind in ("sh", "python"))]) > 25
