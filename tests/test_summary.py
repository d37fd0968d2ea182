"""The table of what the stages found, and the MLflow UI."""

import re

import summary
from pipeline.files import read_json
from toys import STAGES


def test_the_summary_names_numbers_that_the_stages_write(ran, capsys):
    """At any percentage: those of the summary are those of config.yaml."""

    def whatever_percent(name: str) -> str:
        return re.sub(r"_at_\d+", "_at_N", name)

    for stage, name, _, _ in summary.MAIN_NUMBERS:
        written = {whatever_percent(key) for key in read_json(ran.folders[stage] / "metrics.json")}
        assert whatever_percent(name) in written, name
    assert summary.run(ran.cfg) == len(STAGES)
    printed = capsys.readouterr().out
    error = read_json(ran.folders["reconstruct_masked"] / "metrics.json")["adaptive_mse_to_reconstruction_at_50"]
    assert f"{error:.4f}" in printed and "not run yet" not in printed
