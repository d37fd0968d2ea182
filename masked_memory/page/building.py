"""The page as gradio builds it: the opening, the editor with its controls, and how every refusal becomes a sentence."""

import os
from collections.abc import Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from masked_memory.models.distilbert import classes_of
from masked_memory.own_picture.completing import Request
from masked_memory.page.answering import MOST_SAMPLES, NOT_TOLD, Controls, answer
from masked_memory.page.drawing import opening_html
from masked_memory.page.opening import LEAST, MOST, Opening, Studied
from masked_memory.page.uploads import check_control, check_no_addresses, check_uploads
from masked_memory.pipeline.files import InputError
from masked_memory.recall.memory import Memory
from masked_memory.settings.strategies import DECODINGS, STRATEGIES

TITLE = "Reconstruct Masked Images"
MOST_WAITING = 16  # clicks and moves in the queue, beside the one that runs
AGE, SWEEP = 1800, 300  # seconds after which files of the page go, and between looks at them
SAMPLES = 4  # place of the slider among the inputs
NOT_AS_EXPECTED = (
    'what was sent is not as expected; send a picture and the controls as "Use via API" at the foot of the page says'
)
UNEXPECTED = "this went wrong here, not with your picture; the terminal in which the page was started says what"
TOGETHER = {"concurrency_limit": 1, "concurrency_id": "memory"}  # one at a time asks the models


def stay_offline() -> None:
    """Neither gradio nor the model hub's library reports or looks for news; read when these are imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def build_page(opening: Opening, examples: Sequence[Path], studied: Studied | None = None) -> Any:
    """The page as `gradio.Blocks`, not yet served. opening.start: what its controls show at first, and what has none.

    examples: pictures to click below the editor. studied: None where no study was run.
    """
    stay_offline()
    import gradio as gr

    memory, classes, start = opening.memory, opening.classes, opening.start

    def click(editor: dict[str, Any], *values: Any) -> tuple[Any, ...]:
        """Complete a picture: transparent mask layers with paint on them are what is missing."""
        return tuple(vars(answer(memory, classes, start, editor, Controls(*values))).values())

    named = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("editor", *Controls._fields)]
    click.__signature__ = Signature(named)  # type: ignore[attr-defined]  # names of the parameters for "Use via API"
    with in_sentences(gr)(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP, AGE)) as page:
        gr.Markdown(f"# {TITLE}\n{introduction(memory)}")
        _opening(gr, opening, studied)
        gr.Markdown(
            "## A picture of your own\nPaint over what is missing, or let the memory itself choose what to forget. "
            "The last symbol at the left of the picture sets the size of the brush."
        )
        with gr.Row():
            with gr.Column(scale=5):
                inputs, button = _inputs(gr, memory, classes, start, examples)
            with gr.Column(scale=6):
                outputs, part = _outputs(gr, memory, start.samples > 0)
        button.click(click, inputs, outputs, api_name="complete", **TOGETHER)
        inputs[SAMPLES].change(
            lambda count: gr.Column(visible=count > 0),
            inputs[SAMPLES],
            part,
            api_visibility="private",
            show_progress="hidden",
        )
    return page.queue(max_size=MOST_WAITING, api_open=False)


def in_sentences(gr: Any) -> Any:
    """gradio's Blocks, with each mistake answered in a sentence. What is wrong here, and not with what was sent, is
    also written to the terminal."""

    class SentencesForMistakes(gr.Blocks):  # type: ignore[misc]
        async def preprocess_data(self, block_fn: Any, inputs: list[Any], *others: Any, **named: Any) -> Any:
            try:
                check_no_addresses(inputs)
                for control, value in zip(block_fn.inputs, inputs, strict=False):  # gradio counts them
                    check_control(control, value)
                return await super().preprocess_data(block_fn, inputs, *others, **named)
            except Exception as error:  # gradio's parts raise anything for what they cannot read
                raise gr.Error(said_of(error), print_exception=False) from error

        async def process_api(self, *others: Any, **named: Any) -> Any:
            try:
                return await super().process_api(*others, **named)
            except InputError as error:
                raise gr.Error(str(error), print_exception=False) from None
            except gr.Error:
                raise
            except Exception as error:
                raise gr.Error(UNEXPECTED) from error  # with its traceback on the terminal

    return SentencesForMistakes


def said_of(error: BaseException) -> str:
    """The sentence for what could not be read: ours, or gradio's own about a control, or that it is not as expected."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__cause__
    message = getattr(error, "message", None)
    return message if isinstance(message, str) and message else NOT_AS_EXPECTED


def introduction(memory: Memory) -> str:
    config = memory.vqvae.config
    return (
        f"A picture of {config.image_size}×{config.image_size} pixels is {memory.tokens} tokens, each one of "
        f"{config.codebook_size} codes. Some are forgotten; a model completes them from those that are left."
    )


def _opening(gr: Any, opening: Opening, studied: Studied | None) -> None:
    """A test picture, already completed, and the controls that recall it at once."""
    first = min(MOST, max(LEAST, opening.start.percent))

    def recall(number: str, percent: float, strategy: str) -> str:
        """Forget so many per cent of a test picture's tokens, recall it, and show where the study stands."""
        return opening_html(opening.recall(int(number) - 1, percent, strategy), studied)

    with gr.Row():
        percent = gr.Slider(
            LEAST, MOST, first, step=1, label="Forgotten, % of the tokens", elem_id="forgotten", min_width=300
        )
        strategies = [(f"{name} – {strategy.says}", name) for name, strategy in STRATEGIES.items()]
        strategy = gr.Dropdown(
            strategies, value=opening.start.strategy, label="What to keep", elem_id="kept", min_width=300
        )
    numbers = [str(number + 1) for number in range(len(opening.pictures))]
    number = gr.Radio(numbers, value="1", label="Test picture", elem_id="number")
    shown = gr.HTML(recall("1", first, opening.start.strategy), elem_id="recalled", js_on_load=None)
    controls = [number, percent, strategy]
    for control in (percent, number, strategy):  # the first one gives its name to programs
        named = {"api_name": "recall"} if control is percent else {"api_visibility": "private"}
        hidden = "hidden" if control is percent else "minimal"
        control.change(recall, controls, shown, trigger_mode="always_last", show_progress=hidden, **named, **TOGETHER)


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
    check_uploads(editor)
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
