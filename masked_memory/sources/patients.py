"""Which patient a slice shows, by the file names of the OASIS course set: case_001_slice_0.nii.png is of patient 1.

Slices of one patient look alike: where they stand on two sides of a split, test says less about new patients.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

SLICE = re.compile(r"^case_(?P<case>\d+)_slice_\d+\.")
SLICE_FOLDER = "keras_png_slices_"
EXAMPLE = "case_001_slice_0.nii.png"


def patient_of(path: str) -> str:
    """'.../case_001_slice_0.nii.png' -> '1'; empty for other names."""
    match = SLICE.match(path.rpartition("/")[2])
    return str(int(match["case"])) if match else ""


def is_slice_set(paths: Sequence[str]) -> bool:
    """Whether these are slices: by a name of the OASIS course set, of a folder or of a file."""
    return any(part.startswith(SLICE_FOLDER) for path in paths for part in path.split("/")) or any(
        patient_of(path) for path in paths
    )


def together(hashes: Sequence[str], patients: Sequence[str]) -> list[str]:
    """For each picture the name of what must stay on one side: byte-identical pictures, all slices of a patient, and
    what hangs together by both. A picture of an unknown patient ('') stands by its hash, as without patients."""
    parent = {name: name for name in hashes}

    def top(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for name, patient in zip(hashes, patients, strict=True):
        if patient:
            low, high = sorted((top(name), top(first.setdefault(patient, name))))
            parent[high] = low
    return [top(name) for name in hashes]


def on_two_sides(patients: Sequence[str], sides: Sequence[str]) -> dict[str, list[str]]:
    """Patient -> the sides their slices are on, for those with slices on more than one."""
    seen: dict[str, dict[str, None]] = defaultdict(dict)
    for patient, side in zip(patients, sides, strict=True):
        if patient:
            seen[patient][side] = None
    return {patient: list(found) for patient, found in seen.items() if len(found) > 1}


def describe_patients(paths: Sequence[str], patients: Sequence[str], sides: Sequence[str]) -> str:
    """One line about the patients of a set of slices; empty for pictures that are no slices."""
    if not is_slice_set(paths):
        return ""
    unknown = [path for path, patient in zip(paths, patients, strict=True) if not patient]
    if unknown:
        return (
            f"patients are not known: {len(unknown)} of {len(paths)} file names have no case number (such as "
            f"{unknown[0].rpartition('/')[2]}; expected {EXAMPLE}), so slices of a patient may be on two sides"
        )
    count, shared = len(set(patients)), on_two_sides(patients, sides)
    if shared:
        patient, found = next(iter(shared.items()))
        return (
            f"{len(shared)} of {count} patients have slices on two sides (such as case {patient}: {', '.join(found)}), "
            "so test is not of new patients; to split by patient, type --data.given_split false"
        )
    alone = "; one slice of each, so case numbers may count pictures, not patients" if count == len(paths) else ""
    return f"{count} patients by the case number in the file names, none on two sides{alone}"
