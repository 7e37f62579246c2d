"""The package as it is installed: stub, types, what README says."""

import re
import subprocess
import sys
from pathlib import Path

import libgateway
import pytest

from conftest import ROOT, native_path

ALLOWED = """\
# An enum of words is made by `str`, whose overloads are no signature.
libgateway\\.values\\.\\w+\\.__new__
"""


def python(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_it_is_the_installed_wheel_that_is_tested() -> None:
    path = native_path()
    assert (path / "py.typed").is_file() and (path / "_native.pyi").is_file()
    version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None and libgateway.__version__ == version[1]


def test_the_stub_is_what_the_module_is(tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text(ALLOWED, encoding="utf-8")
    checked = python("-m", "mypy.stubtest", "libgateway", "--allowlist", "allowed", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("what", ["examples/python", "tests/python", "libgateway"])
def test_strict_types_hold(what: str, tmp_path: Path) -> None:
    files = sorted(path.name for path in (ROOT / what).glob("*.py") if path.name != "bench.py")
    arguments = ["-p", what] if what == "libgateway" else ["--explicit-package-bases", *files]
    cwd = tmp_path if what == "libgateway" else ROOT / what
    checked = python("-m", "mypy", "--strict", f"--cache-dir={tmp_path}", *arguments, cwd=cwd)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("readme", ["README.md", "bindings-python/README.md"])
def test_what_readme_shows_runs_and_says_what_it_says(readme: str, tmp_path: Path) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    first = text.splitlines()[:60]
    assert any(line == "```python" for line in first), "Python is on the first screen"
    ran = python("-c", blocks[0], cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    # What each `print` says stands behind it.
    said = re.findall(r"^ *print\(.*\)  # (.*?)(?:: .*)?$", blocks[0], re.MULTILINE)
    assert ran.stdout.splitlines() == said and said
    code = [line for line in blocks[0].splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 12


def test_the_quickstart_runs(tmp_path: Path) -> None:
    ran = python(str(ROOT / "examples" / "python" / "quickstart.py"), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].endswith("complete")
