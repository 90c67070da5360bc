"""Pages and plots: all that a report says, nothing from elsewhere, the same bytes each time."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import onnx_reconvene as rc
from onnx_reconvene.pages import portfolio
from onnx_reconvene.pages import run as page_of_run
from onnx_reconvene.portfolio.cell import Cell
from onnx_reconvene.portfolio.row import Row, with_fronts
from onnx_reconvene.report import Size

pytest.importorskip("matplotlib")

NAMES = """<ir_version: 9, opset_import: ["" : 18]>
net (float[1,3,8,8] x) => (float[1,4,8,8] "y<&") {
    a = Conv (x, "first & <b>$x^$")
    "y<&" = Conv (a, w2)
}"""


class Reader(HTMLParser):
    """Collects the text of a page, where it points to, and whether its elements nest."""

    def __init__(self, page):
        super().__init__()
        self.words, self.links, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def pictures(page):
    """Return the plots in a page, read as XML."""
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def check_alone(page):
    """Check that a page loads nothing, runs nothing, and fits light and dark."""
    read = Reader(page)
    assert not read.open
    assert not [link for link in read.links if ":" in link or link.startswith("/")]
    assert "<script" not in page
    assert "@import" not in page
    assert "url(http" not in page
    for svg in pictures(page):
        colours = " ".join(element.get("style", "") for element in svg.iter())
        assert "var(--ink)" in colours
        assert not set(re.findall(r"(?<=: )#[0-9a-f]{6}", colours)) & {"#000000", "#ffffff"}
    assert page.count("prefers-color-scheme: dark") == 1 + len(pictures(page))
    return read


@pytest.fixture
def report(file):
    """Return the report on a run over resnet20."""
    return rc.prune(file(), target="macs=0.5", allocate="reconvene").report


def test_the_page_of_a_run_says_what_the_report_does(report):
    page = page_of_run.page(report)
    text = check_alone(page).text
    for size in (report.before, report.after):
        assert all(f"{n:,}" in text for n in (size.params, size.macs, size.bytes, size.nodes))
    for group in report.groups:
        assert f"{group.name} {group.width:,} {group.kept:,} {group.kept / group.width:.1%} {group.sensitivity:.3g}" in text
    assert all(entry.reason in text for entry in report.frozen)
    assert f"{report.score_kept:.1%}" in text
    assert f"verification: {report.verify.status}" in text
    assert report.rectify.why in text


def test_the_plot_of_a_run_has_a_bar_for_each_group_before_and_after(report):
    def bars(groups):
        (svg,) = pictures(page_of_run.page(replace(report, groups=groups)))
        return sum(element.tag.endswith("}path") for element in svg.iter())

    group = report.groups[0]
    unfelt = replace(group, sensitivity=None)
    assert bars([group] * 6) - bars([group] * 5) == 3
    assert bars([unfelt] * 6) - bars([unfelt] * 5) == 2


def test_names_are_text_not_markup(parsed):
    model = parsed(NAMES, **{"first & <b>$x^$": (8, 3, 1, 1), "w2": (4, 8, 1, 1)})
    report = rc.prune(model, verify=False).report
    report = replace(report, input="a<b>.onnx", groups=[replace(g, name=f"{g.name} & <b>$x^$") for g in report.groups])
    page = page_of_run.page(report)
    read = check_alone(page)
    assert "b" not in read.open
    assert "a<b>.onnx, pruned" in read.text
    assert "'y<&' is a graph output" in read.text
    (svg,) = pictures(page)
    assert any("& <b>$x^$" in (element.text or "") for element in svg.iter())


def test_a_network_that_cannot_be_cut_has_a_page(report):
    text = check_alone(page_of_run.page(replace(report, groups=[], frozen=[], score_kept=None))).text
    assert "No channel can be removed" in text
    assert "no channel is frozen" in text


def test_pages_are_the_same_each_time_whatever_the_settings(report, monkeypatch):
    import matplotlib

    page = page_of_run.page(report)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", "other")
    assert page_of_run.page(report) == page
    assert matplotlib.rcParams["font.size"] == 20.0


@pytest.fixture
def rows():
    """Return the rows of a portfolio of six cuts and one failure."""
    before = Size(1000, 2000, 4000, 5, 4.0)
    found = [
        Row(f"n.macs-0.{k}.{criterion}.uniform", f"macs=0.{k}", criterion, "uniform", 0, None, "f", "r", before,
            Size(100 * k, 200 * k, 400 * k, 5, 0.4 * k + shift), 0.1 * k, 0.1 * k - shift)
        for k in (3, 5, 7)
        for criterion, shift in (("l2", 0.0), ("l1", 0.01))
    ]  # fmt: skip
    failed = Row.failed(Cell("n.macs-0.1.l2.uniform", rc.Options(target=("macs=0.1",))), 4, "out of <reach>")
    return with_fronts([*found, failed])


def test_the_page_of_a_portfolio_says_what_its_rows_do(rows):
    page = portfolio.page(rows, "l2", "n.onnx", portfolio.plot(rows, "l2"))
    read = check_alone(page)
    for row in rows[:-1]:
        assert f"{row.name}.onnx" in read.links
        assert f"{row.name}.json" in read.links
        assert f"{row.kept('latency_ms'):.1%}" in read.text
    assert "n.macs-0.1.l2.uniform: out of <reach>" in read.text


def test_the_plot_of_a_portfolio_has_a_mark_for_each_cut_and_cost(rows):
    (svg,) = pictures(portfolio.plot(rows, "l2"))
    uses = [element for element in svg.iter() if element.tag.endswith("}use") and "stroke-width" not in element.get("style", "")]
    words = {element.text for element in svg.iter() if element.text}
    assert {"MACs kept", "parameters kept", "latency kept", "l2 kept", "l2, uniform", "l1, uniform", "Pareto front"} <= words
    marks = [element for element in uses if "#" in element.get("style", "")]
    assert len(marks) == 3 * 6 + 2  # and two in the legend


def test_markdown_has_a_line_for_each_row(rows):
    text = portfolio.markdown(rows, "l2")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 6
    assert "- n.macs-0.1.l2.uniform: out of <reach>" in text


# --- the option ------------------------------------------------------------------------------------------------------


def test_html_is_written_beside_the_network(run, file, tmp_path):
    assert run(file(), tmp_path / "out.onnx", "--html", tmp_path / "page.html").status == 0
    assert "Before and after" in check_alone((tmp_path / "page.html").read_text()).text


def test_html_without_matplotlib_is_refused_before_any_work(run, file, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = run(file(), tmp_path / "out.onnx", "--html", tmp_path / "page.html")
    assert (ran.status, ran.out) == (2, "")
    (line,) = ran.err.splitlines()
    assert "pip install 'onnx-reconvene[plot]'" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx"]


def test_html_is_no_file_that_is_something_else(run, file, tmp_path):
    source = file()
    for other in (source, tmp_path / "out.onnx", tmp_path / "report"):
        ran = run(source, tmp_path / "out.onnx", "--report", tmp_path / "report", "--html", other)
        assert ran.status == 2
        assert "--html" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx"]


def test_a_portfolio_is_drawn(file, tmp_path):
    rc.sweep(file(), tmp_path / "out", latency=False, jobs=1)
    check_alone((tmp_path / "out" / "portfolio.html").read_text())
    ET.parse(tmp_path / "out" / "portfolio.svg")
    rc.sweep(file(), tmp_path / "out", ["macs=1e-9"], latency=False, jobs=1)
    assert not list((tmp_path / "out").glob("portfolio.[sh]*"))  # nothing to be drawn, and the plot of others is gone
