"""Who judges whether a recalled picture is still recognisable. One registry, read by the study, tables and figures.

A judge favours what it was trained on, so there are several. The degraded judge has seen blurred and grey cells in
training, the clean judge has not, and a third was trained elsewhere. Their measures stand side by side, under names
that differ in the prefix.
"""

from typing import NamedTuple


class JudgeKind(NamedTuple):
    """prefix: of its measures, such as clean_classification_error; says: in figures and tables."""

    prefix: str
    says: str


DEGRADED, CLEAN, ELSEWHERE = "degraded", "clean", "elsewhere"
JUDGES: dict[str, JudgeKind] = {
    DEGRADED: JudgeKind("", "degraded judge"),
    CLEAN: JudgeKind("clean_", "clean judge"),
    ELSEWHERE: JudgeKind("elsewhere_", "judge trained elsewhere"),
}
