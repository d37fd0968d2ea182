"""How much of a picture must a memory keep so that the rest can be completed?

    import masked_memory as mm

    memory = mm.load()                          # the best models of runs/ here, else those that come with the project
    result = memory.recall("cat.png", forget=0.75)
    result.show()                               # picture, what is kept, what is recalled

Nothing is loaded before it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masked_memory.interface.memory import ImageMemory, decodings, examples, strategies
    from masked_memory.interface.memory import open_memory as load
    from masked_memory.interface.results import CompletedPicture, RecalledPictures, StudiedPictures
    from masked_memory.models.classifier import Classifier
    from masked_memory.models.masked_distilbert import MaskedDistilBert
    from masked_memory.pipeline.files import InputError
    from masked_memory.recall.choosing import strategy
    from masked_memory.stages.vqvae import VQVAE

#: public name -> where it stands, under the same name but for `load`
_PLACES = {
    **dict.fromkeys(("load", "examples", "strategies", "decodings", "ImageMemory"), "interface.memory"),
    **dict.fromkeys(("RecalledPictures", "CompletedPicture", "StudiedPictures"), "interface.results"),
    "strategy": "recall.choosing",
    "VQVAE": "stages.vqvae",
    "MaskedDistilBert": "models.masked_distilbert",
    "Classifier": "models.classifier",
    "InputError": "pipeline.files",
}

__all__ = [
    "VQVAE", "Classifier", "CompletedPicture", "ImageMemory", "InputError", "MaskedDistilBert", "RecalledPictures",
    "StudiedPictures", "decodings", "examples", "load", "strategies", "strategy",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f"{__name__}.{_PLACES[name]}")
    return getattr(module, "open_memory" if name == "load" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
