"""What type checkers see of the public names in an editable install."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_costmodel as tcm

NAMES = [name for name in tcm.__all__ if name != "__version__"]


@pytest.mark.slow
def test_a_script_of_public_names_has_types_and_no_any(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    lines = [f"reveal_type(tcm.{name})" for name in NAMES]
    script.write_text("import tvm_costmodel as tcm\n" + "\n".join(lines) + "\n")
    mypy = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "script.py"]
    done = subprocess.run(mypy, capture_output=True, text=True, cwd=tmp_path)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert done.returncode == 0, done.stdout
    assert len(revealed) == len(NAMES) >= 10
    assert [text for text in revealed if text == "Any"] == []
    assert all(text.startswith(("def", "Overload")) for text in revealed)
