"""The project as a whole: style, types, layers, and a README that is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent


def run(*command: object) -> None:
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_style() -> None:
    run(sys.executable, "-m", "ruff", "check", "src", "tests", "benchmarks")
    run(sys.executable, "-m", "ruff", "format", "--check", "src", "tests", "benchmarks")


@pytest.mark.slow
def test_types() -> None:
    run(sys.executable, "-m", "pyright", "--pythonpath", sys.executable)


def test_layers() -> None:
    run(TOOLS / "lint-imports")


def test_no_function_is_long() -> None:
    import ast

    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_the_readme_names_what_exists() -> None:
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^python -m pip install .*$", text, re.M)
    assert len([c for c in commands if c.endswith("&& expunge demo")]) == 1
    assert len([c for c in commands if c.endswith("&& python -m pytest")]) == 1
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_readme_example_is_the_one_that_is_tested() -> None:
    text = (ROOT / "README.md").read_text()
    example = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "expunge.evaluate" in block)
    tested = (ROOT / "tests/end_to_end/test_python_interface.py").read_text()
    for line in filter(None, map(str.strip, example.splitlines())):
        if "expunge." in line:
            assert line in tested, line


def test_the_method_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    example = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "@method" in block)
    assert len(example.splitlines()) < 40
    (tmp_path / "uniform_label.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    import uniform_label

    from expunge.training.losses import cross_entropy
    from tests import problems

    data, context, model = problems.data(), problems.context(), problems.unlearned("finetune:epochs=10,lr=0.1")
    given, labels = data.forget.inputs / 255, data.forget.labels
    doubt = lambda: cross_entropy(model.eval()(given), labels, label_smoothing=1.0).item()  # noqa: E731
    before = doubt()
    uniform_label.unlearn(model, data, uniform_label.UniformLabelConfig(), context)
    assert set(context.steps()) == {"forget"}
    assert doubt() < before
