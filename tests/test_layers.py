"""The direction of imports: a package imports only those below it, and heavy libraries only where they belong."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nanochat_pl"

LEVELS = {
    "core": 0,
    "nn": 1, "optim": 1, "tokenizers": 1, "tools": 1, "tiny_world": 1,
    "models": 2, "tasks": 2, "data": 2,
    "checkpoint": 3, "inference": 3,
    "evals": 4, "planning": 4, "reporting": 4,
    "stages": 5, "callbacks": 5, "config": 5, "diagnosis": 5,
    "video": 5,
    "training": 6, "cli": 6, "demo": 6,
}  # fmt: skip
WITHIN_A_LEVEL = {("data", "tasks"), ("stages", "callbacks"), ("cli", "training")}
ONLY_IN = {
    "lightning": {"stages", "callbacks", "data"},
    "hydra": {"config"},
    "omegaconf": {"config", "training"},
    "wandb": {"callbacks"},
    "tensorboard": {"callbacks"},
    "datasets": {"data", "tasks"},
    "gradio": {"demo"},
    "transformers": {"models", "checkpoint", "tokenizers"},
    "torchmetrics": {"evals", "callbacks", "stages"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules.add(node.module or "")
            modules |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "nanochat_pl"}
    return modules


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 30
    assert {package_of(path) for path in FILES} <= LEVELS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = package_of(path)
    for module in imports_of(path):
        parts = module.split(".")
        if parts[0] == "nanochat_pl" and len(parts) > 1 and parts[1] in LEVELS:
            other = parts[1]
            below = LEVELS[other] < LEVELS[own]
            assert other == own or below or (own, other) in WITHIN_A_LEVEL, f"{own} may not import {other}"
        elif parts[0] in ONLY_IN:
            assert own in ONLY_IN[parts[0]], f"{own} may not import {parts[0]}"


def test_no_cycles_between_files() -> None:
    graph = {path: imports_of(path) for path in FILES}
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    edges = {path: {names[module] for module in modules if module in names} for path, modules in graph.items()}
    assert sum(map(len, edges.values())) > 50
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        assert path not in above, " -> ".join(str(step.relative_to(PACKAGE)) for step in (*above, path))
        if path not in done:
            for below in edges[path]:
                visit(below, (*above, path))
            done.add(path)

    for path in FILES:
        visit(path, ())


def test_the_core_path_imports_with_torch_alone() -> None:
    import subprocess
    import sys

    program = (
        "import sys, nanochat_pl.models.nanochat, nanochat_pl.optim.muon, nanochat_pl.inference.generate\n"
        "print([name for name in ('lightning', 'hydra', 'omegaconf', 'rich', 'tiktoken') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
