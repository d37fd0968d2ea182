"""Pieces of a self-contained HTML page. Every text goes through `said`; what these return is HTML."""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence

from masked_memory.pipeline.files import one_line

NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ?%)?|nan|-?inf|-", re.IGNORECASE)

REPORT_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d5dae0; --tint: #f4f6f8;
  --link: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a0a9b4; --paper: #14171a; --line: #39404a;
  --tint: #1d2126; --link: #62b6e8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h1 { margin: .2rem 0 1rem; font-size: clamp(1.5rem, 4.5vw, 2.1rem); }
h2 { margin: 0 0 .8rem; font-size: 1.35rem; }
h2 code { margin-left: .35em; color: var(--soft); font-size: .68em; font-weight: 400; }
h3 { margin: 1.6rem 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; }
a { color: var(--link); }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .9em; }
.kicker, .note, figcaption, dt { color: var(--soft); }
.kicker { margin: 0; font-weight: 600; }
.note { font-size: .9rem; }
section { margin-top: 2.6rem; padding-top: 1.6rem; border-top: 1px solid var(--line); }
nav ol { margin: .5rem 0 0; padding: 0; list-style: none; columns: 17rem; column-gap: 2rem; }
nav li { break-inside: avoid; padding: .12rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1.2rem; margin: .6rem 0; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
th { color: var(--soft); font-weight: 600; }
.n { text-align: right; white-space: nowrap; }
.key { white-space: nowrap; }
.long { overflow-wrap: anywhere; min-width: 9rem; }
dd code { white-space: nowrap; }
.sub { padding-left: 1.3rem; }
.main { width: 100%; max-width: 36rem; font-size: 1rem; }
.differs { font-weight: 600; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .2rem 0; color: var(--link); }
details[open] > summary { margin-bottom: .4rem; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.2rem; margin: .8rem 0; }
figure { margin: 0; min-width: 0; }
.wide { grid-column: 1 / -1; }
.pan { overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 4px; }
figcaption { margin-top: .35rem; font-size: .875rem; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .875rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; }
  .figures { grid-template-columns: minmax(0, 1fr); }
  .wide img { max-width: none; width: max(100%, 38rem); }
  dl { column-gap: .8rem; }
  .key { min-width: 7.5rem; white-space: normal; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --line: #bbb; --tint: #fff; --link: #000; }
  @page { margin: 16mm 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  a { text-decoration: none; }
  section { break-before: auto; margin-top: 1.4rem; padding-top: 1rem; }
  h2, h3, summary { break-after: avoid; }
  figure, tr, dl { break-inside: avoid; }
  .figures { display: block; columns: 2; column-gap: 1.2rem; }
  figure { margin-bottom: .8rem; }
  .wide { column-span: all; }
  .wide img { width: auto; max-width: 100%; }
  img { max-height: 22cm; }
  .scroll, .pan { overflow: visible; }
  table { font-size: 8pt; }
  td, th, .n, .key { overflow-wrap: anywhere; white-space: normal; padding-right: .5rem; }
  .long { min-width: 0; }
  .broad { font-size: 6.5pt; }
  summary { color: var(--soft); list-style: none; }
}
"""
BROAD = 8  # columns from which a table is printed smaller
LONG = 24  # signs from which a cell is broken anywhere
#: Nothing may be loaded and nothing may run, whatever a file holds.
REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"


def said(text: object) -> str:
    """Any text as HTML that shows it as it is; signs that cannot be seen are written out."""
    return html.escape(one_line(str(text)), quote=True)


def whole_page(title: str, body: Iterable[str]) -> str:
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{REPORT_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{said(title)}</title>\n<style>{REPORT_STYLE}</style>\n</head>\n<body>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"


def definitions(pairs: Mapping[str, str]) -> str:
    """Names (text) and what stands behind them (HTML)."""
    return f"<dl>{''.join(f'<dt>{said(name)}</dt><dd>{shown}</dd>' for name, shown in pairs.items())}</dl>"


def table_html(header: Sequence[str], rows: Iterable[Sequence[object]], bold: Sequence[bool] = ()) -> str:
    """A table of texts; numbers stand at the right, each column's name as most of its cells. bold: for each row."""
    cells = [[str(cell) for cell in row] for row in rows]
    right = [_are_numbers([row[at] for row in cells if at < len(row)]) for at in range(len(header))]
    kind = {True: ' class="n"', False: ""}
    names = [f'<th scope="col"{kind[one]}>{_breaking(name)}</th>' for name, one in zip(header, right, strict=True)]
    lines = []
    for number, row in enumerate(cells):
        kinds = [*right, *[False] * len(row)]
        shown = [
            f"<td{_class(at, kinds[at], cell)}>{said(cell) if at else _breaking(cell)}</td>"
            for at, cell in enumerate(row)
        ]
        strong = ' class="differs"' if number < len(bold) and bold[number] else ""
        lines.append(f"<tr{strong}>{''.join(shown)}</tr>")
    head = f"<thead><tr>{''.join(names)}</tr></thead>" if any(header) else ""
    broad = ' class="broad"' if len(header) > BROAD else ""
    return f'<div class="scroll"><table{broad}>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _are_numbers(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell]
    return bool(filled) and all(NUMBER.fullmatch(cell) for cell in filled)


def _class(at: int, number: bool, cell: str) -> str:
    if number:
        return ' class="n"'
    return "" if len(cell) <= LONG and at else ' class="key"' if len(cell) <= 2 * LONG and not at else ' class="long"'


def _breaking(name: str) -> str:
    """A name as HTML that may be broken behind its dots and underscores."""
    return re.sub(r"([._/])(?=\w)", r"\1<wbr>", said(name))


def folded(summary: str, body: str) -> str:
    return f"<details><summary>{said(summary)}</summary>{body}</details>"


def figure_html(content: bytes, size: tuple[int, int], caption: str, wide: bool) -> str:
    """A PNG within the page. size: width and height in pixels."""
    data = base64.b64encode(content).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" width="{size[0]}" height="{size[1]}" alt="{said(caption)}">'
    return (
        f'<figure{" class=wide" if wide else ""}><div class="pan">{image}</div>'
        f"<figcaption>{said(caption)}</figcaption></figure>"
    )


def megabytes(count: int) -> str:
    """3.2 MB, 240 kB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"
