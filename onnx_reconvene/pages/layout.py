"""What all pages share: the frame, the style, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --faint: #d5d9de; --paper: #ffffff; --link: #2563b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --faint: #3c434b; --paper: #15181c; --link: #7fb2f0; } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
body { color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
a { color: var(--link); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--faint); text-align: left; vertical-align: top; }
.number { text-align: right; } .number, td:first-child { white-space: nowrap; }
svg { max-width: 100%; height: auto; }
"""


def page(title: str, *sections: str) -> str:
    """Return an HTML page that needs nothing else; sections are HTML."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join([f"<h1>{escape(title)}</h1>", *sections])
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'


def section(title: str, *content: str) -> str:
    """Return HTML under a heading."""
    return "\n".join([f"<h2>{escape(title)}</h2>", *content])


def text(words: str) -> str:
    """Return words as a paragraph."""
    return f"<p>{escape(words)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Return a table; head and cells are HTML. numbers: the columns that are set to the right."""
    classes = [' class="number"' if column in set(numbers) else "" for column in range(len(head))]

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(classes, cells, strict=True))

    lines = [f"<tr>{line('td', row)}</tr>" for row in rows]
    return "\n".join(['<div class="wide"><table>', f"<tr>{line('th', head)}</tr>", *lines, "</table></div>"])
