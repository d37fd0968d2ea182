"""A web page for a picture of your own: drop it, paint over what is missing, see what the memory makes of it.

Reads:  the best VQ-VAE, its indices, the DistilBERT and the classifier (as reconstruct_masked.py does)
Writes: nothing; uploads lie in a temporary folder that is removed at the end

    python app.py
    python app.py --config presets/imagenette.yaml --port 7900 --no-browser

--port NUMBER   port of the page; without it the first free one from 7860
--no-browser    do not open the page in a browser

The page starts with the values of reconstruct_masked.own. Models, and how tokens are chosen and filled, are those of
reconstruct_masked (python reconstruct_masked.py --help). It is served to this machine only (127.0.0.1), works without a
network and reports to nobody. The button can also be pressed by program, see "Use via API" on the page.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image

from handoff.memory import take_memory
from handoff.split import Split, open_split
from models.distilbert import classes_of
from own_picture.completing import OwnResult, Request, complete_picture, request_of
from pipeline.files import InputError
from pipeline.machine import prepare_machine
from pipeline.stage import say
from recall.memory import Memory
from settings.command import stage_main
from settings.config import Config
from settings.strategies import DECODINGS, STRATEGIES
from sources.pixels import write_png
from sources.stacks import ORDINARY

TITLE = "Reconstruct Masked Images"
HOST = "127.0.0.1"
MOST_SAMPLES = 8
EXAMPLES = 8
NOT_TOLD = -1
SAMPLES = 4  # place of the slider among the inputs
STYLE = """
.pixels img { image-rendering: pixelated; }
.pixels .image-frame img { width: 100%; height: 100%; object-fit: contain; }
#drawn .grid-wrap { height: auto; min-height: 0; max-height: none; }
"""

# --- models and examples ----------------------------------------------------------------------------------------------


def load_memory(cfg: Config) -> tuple[Memory, list[str]]:
    """The models that cfg.reconstruct_masked names, and the names of the classes (none: no classifier).

    Raises InputError when one is missing or was made for other data.
    """
    machine, split = prepare_machine(cfg.run, say), open_split(cfg)
    if split.meta["channels"] not in ORDINARY:
        raise InputError(f"the page takes grey and RGB pictures; these have {split.meta['channels']} components")
    return take_memory(cfg, split, machine).memory, split.classes


def write_examples(split: Split, folder: Path, count: int = EXAMPLES) -> list[Path]:
    """A few test pictures, evenly spread over the manifest, as PNG files."""
    test = split.positions("test")
    chosen = test[np.linspace(0, len(test) - 1, min(count, len(test))).astype(int)]
    files = [folder / f"example{number}.png" for number in range(len(chosen))]
    for file, position in zip(files, chosen, strict=True):
        write_png(file, np.asarray(split.images[split.rows[position]]))
    return files


# --- from the page to the memory and back -----------------------------------------------------------------------------


def read_editor(value: dict[str, Any] | None) -> tuple[Image.Image, np.ndarray | None]:
    """What the editor holds -> the picture (RGBA) and the painted pixels (H, W) bool, None when nothing was painted.

    value: {"background": uint8 (H, W, 4) or None, "layers": a list of such}. Raises InputError without a picture and
    for a layer of another size.
    """
    if value is None or value["background"] is None:
        raise InputError("there is no picture; drop one into the editor or click an example")
    picture = Image.fromarray(value["background"])
    painted = np.zeros((picture.height, picture.width), dtype=bool)
    for layer in value["layers"]:
        if layer.shape[:2] != painted.shape:
            found = f"{layer.shape[1]}x{layer.shape[0]}"
            raise InputError(f"the mask is {found} pixels; expected {picture.width}x{picture.height} as the picture")
        painted |= layer[..., 3] > 127
    return picture, painted if painted.any() else None


def diversity_picture(diversity: np.ndarray) -> np.ndarray:
    """(H, W) >= 0 -> (H, W, 3) uint8: black where samples agree, brightest at the largest value."""
    scaled = diversity / max(float(diversity.max()), 1e-8)
    return np.round(colormaps["inferno"](scaled)[..., :3] * 255).astype(np.uint8)


def plain(picture: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W) for one channel, otherwise as it is."""
    return picture[..., 0] if picture.shape[-1] == 1 else picture


@dataclass(frozen=True)
class Shown:
    """A result as the page shows it, in the order of its outputs."""

    masked: np.ndarray
    completed: np.ndarray
    before: dict[str, float] | None
    after: dict[str, float] | None
    samples: list[np.ndarray]
    diversity: np.ndarray | None
    caption: str
    note: str


def show(result: OwnResult) -> Shown:
    dropped, tokens = int(result.dropped.sum()), result.dropped.size
    note = f"{dropped} of {tokens} tokens were dropped ({dropped / tokens:.0%})"
    comparable = len(result.samples) > 1
    return Shown(
        masked=plain(result.masked),
        completed=plain(result.completed),
        before=dict(result.before) or None,
        after=dict(result.after) or None,
        samples=[plain(sample) for sample in result.samples],
        diversity=diversity_picture(result.diversity) if comparable else None,
        caption=describe_diversity(result.diversity) if comparable else "Needs two samples or more.",
        note=f"{note}; {result.note}." if result.note else f"{note}.",
    )


def describe_diversity(diversity: np.ndarray) -> str:
    largest = float(diversity.max())
    return f"Brightest: a standard deviation of {largest:.3f} over the samples (0.5 is the most there can be)."


class Controls(NamedTuple):
    """What the controls of the page hold, in their order. label: a class number, NOT_TOLD for none."""

    percent: float
    strategy: str
    decoding: Any
    samples: int
    fit: Any
    label: int
    seed: int


def answer(
    memory: Memory, classes: Sequence[str], start: Request, editor: dict[str, Any] | None, controls: Controls
) -> Shown:
    """One click. start: the settings that are not on the page. Raises InputError for what the person can mend."""
    picture, missing = read_editor(editor)
    request = replace(
        start,
        percent=controls.percent,
        strategy=controls.strategy,
        decoding=controls.decoding,
        samples=int(controls.samples),
        fit=controls.fit,
        label=None if controls.label == NOT_TOLD else controls.label,
        seed=int(controls.seed),
    )
    return show(complete_picture(memory, picture, missing, classes, request))


# --- the page ---------------------------------------------------------------------------------------------------------


def stay_offline() -> None:
    """Neither gradio nor the model hub's library reports or looks for news; read when these are imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def build_page(memory: Memory, classes: Sequence[str], start: Request, examples: Sequence[Path]) -> Any:
    """The page as `gradio.Blocks`, not yet served. start: what its controls show at first, and what has none."""
    stay_offline()
    import gradio as gr

    def click(editor: dict[str, Any], *values: Any) -> tuple[Any, ...]:
        """Complete a picture: transparent mask layers with paint on them are what is missing."""
        try:
            shown = answer(memory, classes, start, editor, Controls(*values))
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return tuple(vars(shown).values())

    named = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("editor", *Controls._fields)]
    click.__signature__ = Signature(named)  # type: ignore[attr-defined]  # names of the parameters for "Use via API"
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\n{introduction(memory)}")
        with gr.Row():
            with gr.Column(scale=5):
                inputs, button = _inputs(gr, memory, classes, start, examples)
            with gr.Column(scale=6):
                outputs, part = _outputs(gr, memory, start.samples > 0)
        button.click(click, inputs, outputs, api_name="complete", concurrency_limit=1)
        inputs[SAMPLES].change(
            lambda count: gr.Column(visible=count > 0),
            inputs[SAMPLES],
            part,
            api_visibility="private",
            show_progress="hidden",
        )
    return page


def introduction(memory: Memory) -> str:
    config = memory.vqvae.config
    return (
        f"A picture of {config.image_size}×{config.image_size} pixels is {memory.tokens} tokens, each one of "
        f"{config.codebook_size} codes. Tokens that you paint over are forgotten; a model completes them from those "
        "that are left. Paint nothing, and the memory itself chooses what to forget. "
        "The last symbol at the left of the picture sets the size of the brush."
    )


def _inputs(
    gr: Any, memory: Memory, classes: Sequence[str], start: Request, examples: Sequence[Path]
) -> tuple[list[Any], Any]:
    """The editor and the controls in the order of `Controls`, and the button."""
    size = memory.vqvae.config.image_size
    editor = gr.ImageMask(
        label="Picture – paint over what is missing",
        type="numpy",
        sources=["upload", "clipboard"],
        layers=False,
        transforms=(),
        height=420,
        canvas_size=(size, size),
        brush=gr.Brush(default_size=max(2, size // 16), colors=["#ff2d2d"], color_mode="fixed"),
        elem_id="editor",
        elem_classes="pixels",
    )
    if examples:
        with gr.Column(elem_id="examples", elem_classes="pixels"):
            gr.Examples([[str(file)] for file in examples], [editor], label="Examples, from the test pictures")
    button = gr.Button("Complete", variant="primary", elem_id="go")
    with gr.Group():
        percent = gr.Slider(
            0,
            100,
            start.percent,
            step=1,
            label="Forgotten, % of the tokens – used when nothing is painted",
            elem_id="percent",
        )
        strategies = [(f"{name} – {strategy.says}", name) for name, strategy in STRATEGIES.items()]
        strategy = gr.Dropdown(
            strategies, value=start.strategy, label="What to keep – used when nothing is painted", elem_id="strategy"
        )
    faithful_first = sorted(DECODINGS, key=lambda name: name != "expected")
    decodings = [(f"{name} – {DECODINGS[name].says}", name) for name in faithful_first]
    decoding = gr.Radio(decodings, value=start.decoding, label="How forgotten tokens are painted")
    fits = [(f"resize to {size}×{size} and back", "resize"), (f"cut into tiles of {size}×{size}", "tile")]
    fit = gr.Radio(fits, value=start.fit, label="Pictures of another size")
    with gr.Row():
        samples = gr.Slider(
            0,
            MOST_SAMPLES,
            min(start.samples, MOST_SAMPLES),
            step=1,
            label="Drawn samples",
            elem_id="samples",
        )
        seed = gr.Number(start.seed, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
    told = [("not told", NOT_TOLD), *((name, number) for number, name in enumerate(classes))]
    first = NOT_TOLD if start.label is None else start.label
    label = gr.Dropdown(told, value=first, label="Class, told to the model", visible=classes_of(memory.distil) > 0)
    return [editor, percent, strategy, decoding, samples, fit, label, seed], button


def _outputs(gr: Any, memory: Memory, with_samples: bool) -> tuple[list[Any], Any]:
    """The results in the order of `Shown`, and the part that is for samples only."""

    def picture(label: str, name: str) -> Any:
        return gr.Image(
            label=label,
            format="png",
            interactive=False,
            height=300,
            buttons=["download", "fullscreen"],
            elem_id=name,
            elem_classes="pixels",
        )

    with gr.Row():
        masked, completed = picture("Masked", "masked"), picture("Completed", "completed")
    note = gr.Markdown("Here come the results.", label="Note", elem_id="note")
    with gr.Row(visible=memory.classifier is not None):
        before = gr.Label(label="Recognised in the original", num_top_classes=3)
        after = gr.Label(label="Recognised in the completed picture", num_top_classes=3)
    with gr.Column(visible=with_samples) as part:
        gallery = gr.Gallery(
            label="Samples",
            format="png",
            columns=4,
            object_fit="contain",
            interactive=False,
            buttons=["download", "fullscreen"],
            elem_id="drawn",
            elem_classes="pixels",
        )
        with gr.Row():
            diversity = picture("Where the samples differ", "diversity")
            caption = gr.Markdown(label="Caption", elem_id="caption")
    return [masked, completed, before, after, gallery, diversity, caption, note], part


def serve(page: Any, port: int | None) -> str:
    """Serve in the background, to this machine only; returns the address. Raises InputError for a taken port."""
    try:
        _, url, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=["api"],
            css=STYLE,
        )
    except OSError as error:
        taken = f"--port {port} is taken" if port else "no port from 7860 on is free"
        raise InputError(f"{taken}; give another with --port NUMBER") from error
    return str(url)


# --- the command ------------------------------------------------------------------------------------------------------


def run_page(cfg: Config, port: int | None, open_browser: bool, wait: Callable[[], Any]) -> float:
    """Load, serve, and wait until interrupted."""
    stay_offline()
    memory, classes = load_memory(cfg)
    start = request_of(cfg.reconstruct_masked, memory.distil, classes, cfg.run.seed)
    with tempfile.TemporaryDirectory(prefix="reconstruct_masked_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        examples = write_examples(open_split(cfg), Path(folder))
        page = build_page(memory, classes, start, examples)
        url = serve(page, port)
        say(f"{TITLE}: {url} (this machine only; Ctrl-C ends it)")
        try:
            if open_browser:
                webbrowser.open(url)
            wait()
        except KeyboardInterrupt:
            say("closed")
        finally:
            page.close(verbose=False)
    return 0.0


def wait_until_stopped() -> None:
    """Ends with KeyboardInterrupt at Ctrl-C, and at a plain kill, which would leave the uploads behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Event().wait()


def read_port(text: str | None) -> int | None:
    """Raises InputError for anything but 1 to 65535."""
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise InputError(f"--port is {text}; expected a whole number from 1 to 65535")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    parser.add_argument("--port")
    parser.add_argument("--no-browser", action="store_true")
    mine, others = parser.parse_known_args(argv)

    def run(cfg: Config, resume: bool = False) -> float:
        return run_page(cfg, read_port(mine.port), not mine.no_browser, wait_until_stopped)

    return stage_main("app", run, __doc__ or "", argv=others, resumable=False)


if __name__ == "__main__":
    sys.exit(main())
