"""The opening of the page as HTML: pictures, tokens and curves, readable aloud and on a narrow screen.

All that comes from data (names of classes and runs) is escaped.
"""

import base64
import io
import math
from collections.abc import Iterator
from html import escape

import numpy as np

from masked_memory.measuring.curves import Curve
from masked_memory.page.opening import MOST, SHOWN_CURVES, Recall, Studied
from masked_memory.pipeline.commands import command
from masked_memory.sources.pixels import plain_image

NO_STUDY = "No study has been run with these models, so there is no curve. To have one, type: "
NUMBERED = 400  # tokens: on larger grids their codes are too small to be read
WIDTH, HEIGHT = 340, 200  # of a curve, in its own units
LEFT, EDGE, TOP, FLOOR = 46, WIDTH - 12, 12, HEIGHT - 34  # where its axes are
STYLE = """
.pixels img { image-rendering: pixelated; }
.pixels .image-frame img { width: 100%; height: 100%; object-fit: contain; }
#drawn .grid-wrap { height: auto; min-height: 0; max-height: none; }
.gradio-container { overflow-x: hidden; }
.opening { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 20px 28px; }
.opening .panels { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; align-content: start; }
.opening figure { margin: 0; min-width: 0; }
.opening figcaption { font-size: 14px; line-height: 1.35; margin-top: 4px; }
.opening img, .opening svg { display: block; width: 100%; height: auto; }
.opening img { image-rendering: pixelated; border: 1px solid #8886; }
.opening p { margin: 0 0 8px; font-size: 15px; }
.opening text { fill: currentColor; font-family: inherit; }
.opening .curves { min-width: 0; }
.opening .curves figure { max-width: 480px; }
.opening .curves figure + figure { margin-top: 12px; }
.opening .axis, .opening .tick { stroke: currentColor; stroke-width: 0.7; opacity: 0.45; }
.opening .other { fill: none; stroke: currentColor; stroke-width: 0.8; opacity: 0.22; }
.opening .chosen { fill: none; stroke: #d55e00; stroke-width: 2.4; }
.opening .mean { fill: #d55e00; stroke: #fff; stroke-width: 1.5; }
.opening .own { fill: none; stroke: currentColor; stroke-width: 1.8; }
.opening .here { stroke: currentColor; stroke-width: 0.8; stroke-dasharray: 3 3; opacity: 0.6; }
.opening .gone { fill: #8883; stroke: #8886; stroke-width: 0.04; }
:focus-visible { outline: 3px solid #0072b2 !important; outline-offset: -2px; }
input[type="range"]:focus-visible, input[type="radio"]:focus-visible { outline-offset: 2px; }
"""


def opening_html(recall: Recall, studied: Studied | None) -> str:
    """All that depends on the picture, the slider and the strategy."""
    none_yet = f"<p>{NO_STUDY}{escape(command('reconstruct_masked'))}</p>"
    curves = none_yet if studied is None else "".join(_curves(recall, studied))
    return (
        f'<div class="opening"><div><p role="status">{escape(sentence(recall))}</p>'
        f'<div class="panels">{"".join(_panels(recall))}</div></div><div class="curves">{curves}</div></div>'
    )


def sentence(recall: Recall) -> str:
    """What happened, in plain words."""
    kept, tokens = int(recall.kept.sum()), recall.kept.size
    text = f"{recall.percent:.0f} % forgotten: {kept} of {tokens} tokens are kept, {recall.bits:.0f} bits."
    if recall.seen is None or recall.seen_before is None:
        return text
    (now, sure), (before, sure_before) = recall.seen, recall.seen_before
    return f"{text} The classifier sees {now} ({sure:.0%}); with all tokens it sees {before} ({sure_before:.0%})."


def _panels(recall: Recall) -> Iterator[str]:
    kept, tokens = int(recall.kept.sum()), recall.kept.size
    yield _picture(recall.original, "The test picture")
    yield _picture(recall.masked, "What is kept")
    yield f"<figure>{tokens_svg(recall)}<figcaption>Its tokens: {kept} of {tokens} kept</figcaption></figure>"
    yield _picture(recall.recalled, "What is recalled")


def _picture(pixels: np.ndarray, says: str) -> str:
    """(H, W, C) uint8 as a figure; the picture stands in the page itself, so nothing is written."""
    held = io.BytesIO()
    plain_image(pixels).save(held, format="PNG")
    source = base64.b64encode(held.getvalue()).decode()
    picture = f'<img src="data:image/png;base64,{source}" alt="{escape(says)}">'
    return f"<figure>{picture}<figcaption>{escape(says)}</figcaption></figure>"


def tokens_svg(recall: Recall) -> str:
    """The grid of codes: kept tokens in the mean colour of their cell with the number of their code, the others
    empty."""
    rows, columns = recall.kept.shape
    colours = _cell_means(recall.original, rows, columns)
    cells = []
    for row, column in np.ndindex(rows, columns):
        place = f'x="{column}" y="{row}" width="1" height="1"'
        if not recall.kept[row, column]:
            cells.append(f'<rect class="gone" {place}/>')
            continue
        red, green, blue = (int(value) for value in colours[row, column])
        cells.append(f'<rect {place} fill="rgb({red},{green},{blue})"/>')
        if recall.kept.size <= NUMBERED:
            ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"
            cells.append(
                f'<text x="{column + 0.5}" y="{row + 0.64}" font-size="0.42" text-anchor="middle" '
                f'style="fill:{ink}">{recall.tokens[row, column]}</text>'
            )
    says = f"{int(recall.kept.sum())} of {recall.kept.size} tokens kept, in a grid of {columns} by {rows}"
    return f'<svg viewBox="0 0 {columns} {rows}" role="img" aria-label="{says}">{"".join(cells)}</svg>'


def _cell_means(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(H, W, C) uint8 -> (rows, columns, 3): the mean colour of each cell."""
    height, width, channels = pixels.shape
    cells = pixels.reshape(rows, height // rows, columns, width // columns, channels).mean((1, 3))
    return np.broadcast_to(cells, (rows, columns, 3)) if channels == 1 else cells


# --- the study --------------------------------------------------------------------------------------------------------


def _curves(recall: Recall, studied: Studied) -> Iterator[str]:
    """Each measure of the study with the point where the slider stands, and what all of it is."""
    source = f"{studied.pictures} test pictures, decoding {studied.decoding}, run {studied.run}."
    others = [name for name in next(iter(studied.curves.values())) if name != recall.strategy]
    thin = f" Thick: {recall.strategy}. Thin: {', '.join(others)}." if others else ""
    yield f"<p>The study: {escape(source + thin)}</p>"
    for number, (measure, curves) in enumerate(studied.curves.items()):
        own = recall.error if number == 0 and measure == "mse_to_reconstruction" else None
        yield curve_figure(measure, curves, recall, own)


def curve_figure(measure: str, curves: dict[str, Curve], recall: Recall, own: float | None) -> str:
    """One measure against the percentage forgotten. own: the value of the picture that is shown, None where it has
    none."""
    chosen = curves.get(recall.strategy)
    mean = None if chosen is None else value_at(chosen, recall.percent)
    says = f"{SHOWN_CURVES[measure]} at {recall.percent:.0f} % forgotten: "
    if chosen is None:
        says += f"not measured for {recall.strategy}"
    elif mean is None:
        says += f"the study of {recall.strategy} begins at {min(chosen.percentages):.0f} %"
    else:
        says += f"{_number(mean)} for {recall.strategy} in the study (●)"
    says += "" if own is None else f", {_number(own)} for this picture (◇)"
    top = nice_top(max([max(each.means) for each in curves.values()] + ([] if own is None else [own])))
    parts = [*_axes(top, SHOWN_CURVES[measure]), *(_line(each, top, "other") for each in curves.values())]
    x = _x(recall.percent)
    parts.append(f'<line class="here" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{FLOOR}"/>')
    parts += [] if chosen is None else [_line(chosen, top, "chosen")]
    if mean is not None:
        parts.append(f'<circle class="mean" cx="{x:.1f}" cy="{_y(mean, top):.1f}" r="5.5"/>')
    if own is not None:
        y = _y(own, top)
        parts.append(f'<path class="own" d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>')
    drawn = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(says)}">{"".join(parts)}</svg>'
    return f"<figure>{drawn}<figcaption>{escape(says[:1].upper() + says[1:])}.</figcaption></figure>"


def value_at(found: Curve, percent: float) -> float | None:
    """The curve's value, straight between the percentages that were measured; None outside of them."""
    if not found.percentages[0] <= percent <= found.percentages[-1]:
        return None
    return float(np.interp(percent, found.percentages, found.means))


def nice_top(value: float) -> float:
    """The end of an axis that has room for the value: a round number, at most half as much again."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value)


def _axes(top: float, name: str) -> Iterator[str]:
    yield f'<line class="axis" x1="{LEFT}" x2="{EDGE}" y1="{FLOOR}" y2="{FLOOR}"/>'
    yield f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{FLOOR}"/>'
    for percent in (0, 25, 50, 75, MOST):
        x = _x(percent)
        yield f'<text x="{x:.1f}" y="{FLOOR + 14}" font-size="11" text-anchor="middle">{percent}</text>'
    for share in (0.0, 0.5, 1.0):
        y = _y(share * top, top)
        yield f'<text x="{LEFT - 5}" y="{y + 4:.1f}" font-size="11" text-anchor="end">{share * top:.3g}</text>'
    yield f'<text x="{(LEFT + EDGE) / 2}" y="{HEIGHT - 5}" font-size="11" text-anchor="middle">'
    yield "% of the tokens forgotten</text>"
    yield f'<text x="{LEFT + 6}" y="{TOP + 8}" font-size="11">{escape(name)}</text>'


def _line(found: Curve, top: float, kind: str) -> str:
    points = " ".join(
        f"{_x(percent):.1f},{_y(mean, top):.1f}" for percent, mean in zip(found.percentages, found.means, strict=True)
    )
    return f'<polyline class="{kind}" points="{points}"/>'


def _x(percent: float) -> float:
    return LEFT + percent / MOST * (EDGE - LEFT)


def _y(value: float, top: float) -> float:
    return FLOOR - value / top * (FLOOR - TOP)


def _number(value: float) -> str:
    return f"{value:.3g}"
