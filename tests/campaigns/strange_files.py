"""Pictures and stacks as strangers have them: decoded right, or refused with words that say why."""

import warnings
from pathlib import Path

import numpy as np

from campaigns.outcomes import Outcome
from masked_memory.sources.pictures import Decoded, decode
from masked_memory.sources.stacks import Stacks
from strangers import SIDE, File, pictures, stacks

CAMPAIGN = "strange files"
TWO_COMPONENTS = Stacks(("a", "b"), ((0.0, 255.0),) * 2, True)


def judge_decoded(kind: str, decoded: Decoded, file: File) -> Outcome:
    """What became of a file, and whether it may."""
    if decoded.problem is not None:
        said = file.refused is not None and file.refused in decoded.problem and "\n" not in decoded.problem
        fine = said and decoded.pixels is None
        return Outcome(CAMPAIGN, kind, "refused" if fine else "wrong", decoded.problem)
    if file.pixels is None or decoded.pixels is None:
        return Outcome(CAMPAIGN, kind, "wrong", f"expected a refusal: {file.refused}")
    off = int(np.abs(decoded.pixels.astype(int) - file.pixels).max())
    return Outcome(CAMPAIGN, kind, "survived" if off <= file.off else "wrong", f"off by {off}")


def decode_strange_files(folder: Path, tries: int, seed: int) -> list[Outcome]:
    """At most `tries` kinds, from the first on; they are the same with each seed."""
    kinds = [(kind, file, 3, None) for kind, file in pictures().items()]
    kinds += [(kind, file, 2, TWO_COMPONENTS) for kind, file in stacks().items()]
    outcomes = []
    for number, (kind, file, channels, parts) in enumerate(kinds[:tries]):
        path = folder / str(number) / file.name
        path.parent.mkdir()
        path.write_bytes(file.content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                decoded = decode(path, SIDE, channels, parts)
        except Exception as error:
            outcomes.append(Outcome(CAMPAIGN, kind, "wrong", f"{type(error).__name__}: {error}"))
            continue
        outcomes.append(judge_decoded(kind, decoded, file))
    return outcomes
