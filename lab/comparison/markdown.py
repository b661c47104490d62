"""A comparison as a Markdown document: the same tables, with where and when they were measured."""

from pathlib import Path

from lab.comparison.results import Comparison
from lab.comparison.sheets import Sheet, sheets

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def markdown(comparison: Comparison, chart: str | None = None) -> str:
    """Everything, with headings of the second level.

    Args:
        comparison: what was measured.
        chart: path of its picture, as the document shall name it.
    """
    settings = comparison.settings
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    parts = [
        f"Measured at {comparison.at} on {comparison.machine}; {versions}. "
        f"{settings['withdrawals']:,.0f} withdrawals by {settings['clients']:.0f} clients on "
        f"{settings['accounts']:.0f} accounts, {settings['hot_account']:.0%} of them on a single one. "
        f"The whole run took {comparison.took_s:.0f} s."
    ]
    if chart is not None:
        parts.append(f"![The approaches side by side]({chart})")
    if comparison.advice:
        advice = [f"* **{one.need}: {one.title}.** {_sentence(one.why)}" for one in comparison.advice]
        parts += ["## What to take", "\n".join(advice)]
    parts += [_table(sheet) for sheet in sheets(comparison)]
    return "\n\n".join(parts) + "\n"


def write(file: Path, text: str) -> None:
    """Write a document; one that has the marks of figures keeps what is around them."""
    if file.exists() and BEGIN in (before := file.read_text()) and END in before:
        head, _, rest = before.partition(BEGIN)
        _, _, tail = rest.partition(END)
        text = f"{head}{BEGIN}\n\n{text}\n{END}{tail}"
    file.write_text(text)


def _table(sheet: Sheet) -> str:
    align = ["---"] + ["---" if sheet.words else "---:"] * (len(sheet.header) - 1)
    lines = [sheet.header, align]
    for number, row in enumerate(sheet.rows):
        lines.append(
            [f"**{cell}**" if (number, column) in sheet.alarms else cell for column, cell in enumerate(row)]
        )
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    note = f"{sheet.note}\n\n" if sheet.note else ""
    return f"## {sheet.title}\n\n{note}{table}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
