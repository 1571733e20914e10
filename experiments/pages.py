"""Tables on pages of the documentation: as Markdown, and between their marks."""

from collections.abc import Sequence
from pathlib import Path

from phasejax import RunError
from phasejax.claims.writing import symbols


def table(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Markdown, the first row its head; columns but the first stand at the right if they are numbers."""
    lines = ["| " + " | ".join(symbols(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
    rest = "---:|" if numbers else "---|"
    return "\n".join([lines[0], "|---|" + rest * (len(rows[0]) - 1), *lines[1:]])


def put(what: str, text: str, page: Path) -> None:
    """Put a text in its place on a page, between `<!-- what -->` and `<!-- end of what -->`.

    Raises:
        RunError: the page has no such place.
    """
    begin, end = f"<!-- {what} -->", f"<!-- end of {what} -->"
    before, mark, rest = page.read_text("utf-8").partition(begin)
    if not mark:
        raise RunError(f"{page} has no place for the {what}: {begin} is missing.")
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", "utf-8")
