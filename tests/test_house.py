"""The house: which room may know of which, how large a room may be, and that importing is silent."""

import subprocess
import sys

from toys import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] not in ("tests", "runs", ".venv") and path.name != "__init__.py"
)


def test_importing_every_module_prints_and_writes_nothing(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + "\n".join(f"import {name}" for name in MODULES)
    call = [sys.executable, "-B", "-c", code]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
