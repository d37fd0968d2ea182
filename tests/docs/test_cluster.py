"""The scripts for clusters: what they start runs here, with Slurm's commands stood in for."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from masked_memory.pipeline.files import read_json
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.stages import data_split
from toys import ROOT, draw_classes, newest, tiny, words_of

pytestmark = pytest.mark.system

CLUSTER = ROOT / "docs" / "cluster"
SHIMS = {"scontrol": "echo localhost", "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"'}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.skipif(not (Path(sys.prefix) / "bin/activate").is_file(), reason="Python is not in a virtual environment")
def test_the_slurm_script_trains_in_two_processes_and_goes_on_when_it_is_queued_again(tmp_path: Path) -> None:
    shims, runs, source = tmp_path / "bin", tmp_path / "runs", draw_classes(tmp_path / "pictures")
    shims.mkdir()
    for name, does in SHIMS.items():
        (shims / name).write_text(f"#!/bin/bash\n{does}\n")
        (shims / name).chmod(0o755)
    data_split.run(tiny(runs, source, run__mlflow=False))
    slurm = {
        "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_RESTART_COUNT": "1", "PROCESSES": "2", "PORT": str(free_port()), "VENV": sys.prefix,
        "OMP_NUM_THREADS": "1", "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    words = words_of("train_vqvae", runs, source, "--train_vqvae.tune.trials", 0, "--train_vqvae.retrain", "false")
    ended = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sh"), *words], cwd=tmp_path, env=os.environ | slurm, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "2 processes" in ended.stdout and "nothing to resume" in ended.stdout
    assert read_json(newest(runs, "train_vqvae") / "run.json")["status"] == "finished"


def test_the_kubernetes_job_finds_its_own_service_and_starts_a_stage_with_settings_that_exist() -> None:
    service, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    spec = job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert spec["subdomain"] == service["metadata"]["name"]
    (container,) = spec["containers"]
    launcher, *words = container["command"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    (stage,) = [word for word in words if not word.startswith("--")]
    assert words[-1] == "--resume" and launcher == "torchrun" and (ROOT / stage).is_file()
    assert int(flags["nnodes"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(flags["nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert flags["rdzv-endpoint"].startswith(f"{job['metadata']['name']}-0.{service['metadata']['name']}:")
    settings = {name for name, _ in loading.options(Config)}
    assert {name for name in flags if "." in name} <= settings
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
