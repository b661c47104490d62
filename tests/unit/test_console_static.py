"""The console's files: vendored ones as released, colours with contrast, templates without anything inline."""

import json
import re
import tomllib
from hashlib import sha256

import pytest

from api.console import static_files
from api.console.rendering import POLICY, TEMPLATES
from api.console.static_files import STATIC
from tests.unit.test_layout import ROOT

CSS = (STATIC / "console.css").read_text()
OURS = {"console.css", "console.js", "selection.js", "icon.svg", "vendored.json"}
AA_TEXT, AA_MARK = 4.5, 3.0
STATES = ("blue", "amber", "teal", "green", "orange", "violet", "red", "grey")
# What is written on what, and marks that have to be seen.
PAIRS = [
    *((name, on, AA_TEXT) for name in ("ink", "muted", "faint", *STATES) for on in ("canvas", "panel", "well")),
    *(("focus", on, AA_MARK) for on in ("canvas", "panel", "well")),
]


def test_vendored_files_are_those_that_were_released_and_each_has_its_licence():
    listed = json.loads((STATIC / "vendored.json").read_text())
    for one in listed:
        assert sha256((STATIC / one["file"]).read_bytes()).hexdigest() == one["sha256"], one["file"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", one["version"])
        assert one["licence"] == "0BSD"
        assert "Zero" in (STATIC / one["licence_file"]).read_text()
    named = {one[key] for one in listed for key in ("file", "licence_file")}
    assert {file.name for file in STATIC.iterdir()} == named | OURS


def test_what_only_tests_use_is_as_released_too():
    axe = ROOT / "tests" / "browser" / "axe"
    (one,) = json.loads((axe / "vendored.json").read_text())
    assert sha256((axe / one["file"]).read_bytes()).hexdigest() == one["sha256"]
    assert (one["licence"], "Mozilla Public License" in (axe / one["licence_file"]).read_text()) == (
        "MPL-2.0",
        True,
    )
    assert one["version"] in (axe / one["file"]).read_text()[:20]


def test_every_file_of_the_pages_goes_into_the_wheel():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "api" / "console"
    packed = {file for pattern in build["api.console"] for file in folder.glob(pattern)}
    assert packed == {file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}


def themes() -> dict[str, dict[str, str]]:
    light, dark, switched = re.findall(r":root(?:\[[^]]*\]|:not\(\[[^]]*\]\))? \{([^}]*)\}", CSS)
    found = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", block)) for block in (light, dark, switched)]
    assert found[1] == found[2]  # as the system says, or as chosen
    assert found[0].keys() == found[1].keys()
    return {"light": found[0], "dark": found[1]}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("front", "back", "least"), PAIRS)
def test_what_is_written_can_be_read(theme, front, back, least):
    """The contrast of WCAG 2.2, level AA: https://www.w3.org/TR/WCAG22/#contrast-minimum."""
    colours = themes()[theme]
    light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least


def test_every_colour_is_a_variable():
    outside = re.sub(r":root[^{]*\{[^}]*\}", "", CSS)
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", outside)) <= {"#0005", "#0008"}  # shadows


@pytest.mark.parametrize("template", sorted(TEMPLATES.rglob("*.html")), ids=lambda file: file.name)
def test_a_template_has_nothing_inline_and_loads_nothing_from_elsewhere(template):
    text = template.read_text()
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:|https?://|//[a-z]", text)
    assert (
        re.sub(r'<script src="\{\{ asset\(\'[a-z.-]+\'\) \}\}"( defer)?></script>', "", text).count("<script") == 0
    )
    # What is not escaped again was rendered by a template of ours.
    assert set(re.findall(r"\{\{ ?([a-z_]+)\[[^}]*\| safe", text)) <= {"parts", "fragments", "rows"}
    assert text.count("| safe") == len(re.findall(r"\{\{ ?[a-z_]+\[[^}]*\| safe \}\}", text))


def test_scripts_run_no_text_and_put_none_into_the_page_as_html():
    ours = "".join(file.read_text() for file in (STATIC / "console.js", STATIC / "selection.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", ours)
    assert "unsafe" not in POLICY


def test_a_file_is_served_under_a_name_of_its_contents():
    assert static_files.url("console.css").startswith("/console/static/")
    assert static_files.url("console.css").split("/")[3] == sha256(CSS.encode()).hexdigest()[:16]
    for name in ("htmx.LICENSE", "vendored.json", "../rendering.py", "nothing.css"):
        with pytest.raises(KeyError):
            static_files.contents(name)
