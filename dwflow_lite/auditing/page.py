"""The page of an audit: table and figures in one HTML file, that fetches nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from dwflow_lite.auditing.rows import Bars
from dwflow_lite.support.paths import as_path, check_writable, written_whole

FLAGS = "flags"  # the heading of a column
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

CSS = """
:root { --ink:#1d2430; --soft:#5b6675; --paper:#fdfdfb; --line:#dfe3e8; --bad:#b3261e; color-scheme: light dark; }
.mark { fill:var(--c); } .line { stroke:var(--c); }
.ring { fill:var(--paper); stroke:var(--c); }
@media (prefers-color-scheme: dark) {
  :root { --ink:#dfe3ea; --soft:#98a3b3; --paper:#15181d; --line:#303743; --bad:#ff8d84; }
  .mark { fill:color-mix(in srgb, var(--c) 60%, white); } .line { stroke:color-mix(in srgb, var(--c) 60%, white); }
  .ring { fill:var(--paper); stroke:color-mix(in srgb, var(--c) 60%, white); }
}
body { margin:0 auto; max-width:66rem; padding:1.5rem; background:var(--paper); color:var(--ink);
  font:16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size:1.7rem; margin:.4rem 0; } h2 { font-size:1.2rem; margin:2.2rem 0 .3rem; } p { max-width:75ch; }
.wide { overflow-x:auto; } table { border-collapse:collapse; font-size:.82rem; line-height:1.4; }
th, td { padding:.3rem .45rem; border-bottom:1px solid var(--line); text-align:right; vertical-align:bottom; }
th { font-weight:600; color:var(--soft); } td { white-space:nowrap; font-variant-numeric:tabular-nums; }
:is(th, td):first-child { text-align:left; } .flag { color:var(--bad); }
svg { width:100%; height:auto; font:13px system-ui, -apple-system, "Segoe UI", sans-serif; }
svg .ink { fill:var(--ink); } svg .soft { fill:var(--soft); font-size:12px; }
.axis { stroke:var(--soft); } .grid { stroke:var(--line); stroke-width:.7; }
.lead { stroke:var(--soft); stroke-width:.5; opacity:.7; }
.bar { stroke:var(--ink); stroke-dasharray:4 3; } .faint { opacity:.45; }
.ring { stroke-width:2.6; } .line { fill:none; stroke-width:2; }
"""


def page_of(cells: Sequence[Sequence[str]], pictures: Mapping[str, str], bars: Bars, symmetries: Sequence[str]) -> str:
    """The page as HTML.

    Args:
        cells: of the table, its heading first; one column is that of the flags.
        pictures: title -> SVG.
        bars: of the audit.
        symmetries: up to which distances are measured.
    """
    heading, *rows = cells
    lines = ["".join(f'<th scope="col">{escape(cell)}</th>' for cell in heading)]
    classes = [' class="flag"' if name == FLAGS else "" for name in heading]
    for row in rows:
        lines.append("".join(f"<td{of}>{escape(cell)}</td>" for of, cell in zip(classes, row, strict=True)))
    table = "\n".join(f"<tr>{line}</tr>" for line in lines)
    figures = "\n".join(f"<h2>{escape(title)}</h2>\n{svg}" for title, svg in pictures.items())
    seen_through = f"up to {', '.join(symmetries)}" if symmetries else "as the weights stand"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit of generated networks</title><style>{CSS}</style></head>\n<body><h1>New or copied?</h1>\n"
        f"<p>Accurate is what scores at least {bars.score:.3f}, new what lies at least {bars.distance:.2f} from its "
        f"nearest member, {escape(seen_through)}: all but the lowest twentieth of the zoo's own members do. "
        f"The best constant answer scores {bars.chance:.3f}.</p>\n"
        f'<div class="wide"><table>\n{table}\n</table></div>\n{figures}\n</body></html>\n'
    )


def write_page(path: str | Path, page: str) -> Path:
    """Write a page, whole or not at all; ``OSError`` where it cannot be written."""
    path = as_path(path)
    check_writable(path)
    with written_whole(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path
