"""Who may import whom, what loads when, and the documentation of every module."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fl_server", "fl_client", "strategies", "tasks", "fl_common")
MODULES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "migrations" not in path.parts
)
FENCES = {
    "torch": ("tasks/", "strategies/accumulator.py"),
    "torchvision": ("tasks/",),
    "torchmetrics": ("tasks/",),
    "pandas": ("tasks/",),
    "sklearn": ("tasks/",),
    "sqlalchemy": ("fl_server/leaderboard/",),
    "alembic": ("fl_server/leaderboard/",),
    "fastapi": (
        "fl_server/leaderboard/",
        "fl_server/superlink/serve.py",
        "fl_server/superlink/fleet_middleware.py",
    ),
    "starlette": (
        "fl_server/leaderboard/",
        "fl_server/superlink/serve.py",
        "fl_server/superlink/fleet_middleware.py",
    ),
    "hydra": (
        "fl_server/config/run_config.py",
        "fl_server/cli.py",
        "fl_server/config/compose.py",
        "fl_server/config/run_folder.py",
        "fl_server/config/instantiation.py",
        "fl_client/cli.py",
    ),
    "omegaconf": (
        "fl_server/config/run_config.py",
        "fl_server/cli.py",
        "fl_server/config/compose.py",
        "fl_server/config/run_folder.py",
        "fl_client/cli.py",
    ),
    "typer": ("fl_server/commands/cli.py",),
    "ultralytics": ("tasks/object_detection/",),
    "xgboost": ("tasks/tabular/",),
    "ray": ("fl_server/runtimes/launch.py",),
}
LAZY = {"ultralytics", "ray", "xgboost"}
"""Optional packages: never imported when a module is."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of everything that a tree imports, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def imported_at_once(tree: ast.Module) -> set[str]:
    """What is imported when the module is, not within a function or for type checkers only."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                    found |= set(imported(statement))
            continue
        found |= set(imported(node))
    return found


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name(path): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_contracts_of_pyproject_hold():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("fl_common/words.py", "import tasks.stats"),
        ("tasks/stats.py", "import tasks.registry"),
        ("strategies/wire/messages.py", "import strategies.registry"),
        ("fl_server/results/scoring.py", "import fl_server.rounds.loop"),
        ("fl_client/policy/policy.py", "import fl_client.runner"),
    ],
)
def test_an_upward_import_between_packages_or_rooms_is_found(tmp_path, module, line):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout


@pytest.mark.parametrize("library", sorted(FENCES))
def test_library_stays_behind_its_fence(trees, library):
    outside = [
        path
        for path, tree in trees.items()
        if library in set(imported(tree)) and not path.startswith(FENCES[library])
    ]
    assert outside == []


FLOWER_PUBLIC = ("app", "clientapp", "serverapp")
FLOWER_PRIVATE = {
    "fl_server/superlink/": "the Fleet API",
    "fl_client/link/": "the Fleet API",
    "fl_server/runtimes/": "Run and TaskIdentity of an engine; run_simulation of Ray",
    "fl_server/rounds/sites.py": "Run, in the signature of a Grid",
    "fl_server/rounds/replies.py": "ErrorCode of a lost node",
    "strategies/privacy/masking.py": "the primitives of SecAgg+",
}
"""Where names of Flower are used that it does not promise to keep, and which."""


def test_private_names_of_flower_stay_in_few_places(trees):
    outside = [
        f"{path}: {node.module}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("flwr.")
        and (node.module or "").split(".")[1] not in FLOWER_PUBLIC
        and not path.startswith(tuple(FLOWER_PRIVATE))
    ]
    assert outside == []


@pytest.mark.parametrize("library", sorted(LAZY))
def test_optional_package_is_not_imported_with_a_module(trees, library):
    assert [path for path, tree in trees.items() if library in imported_at_once(tree)] == []


def test_server_and_client_do_not_import_each_other(trees):
    for path, tree in trees.items():
        if path.startswith("fl_server/"):
            assert "fl_client" not in set(imported(tree)), path
        if path.startswith("fl_client/"):
            assert "fl_server" not in set(imported(tree)), path
        if path.startswith(("tasks/", "strategies/")):
            assert not {"fl_server", "fl_client"} & set(imported(tree)), path
        if path.startswith("tasks/"):
            assert not {"strategies", "flwr"} & set(imported(tree)), path


def test_site_reads_nothing_that_a_message_holds(trees):
    """The policy knows no Flower: it cannot come from a message. Nor does what acts on it."""
    inner = ("fl_client/policy/", "fl_client/site_job.py", "fl_client/runner.py")
    checked = {path: tree for path, tree in trees.items() if path.startswith(inner)}
    assert checked.keys() > {"fl_client/policy/site.py", "fl_client/policy/policy.py"}
    assert [path for path, tree in checked.items() if "flwr" in set(imported(tree))] == []


@pytest.mark.parametrize("module", ["pickle", "dill", "cloudpickle", "marshal", "shelve"])
def test_nothing_is_ever_unpickled(trees, module):
    assert [path for path, tree in trees.items() if module in set(imported(tree))] == []


def _public(node: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for child in ast.iter_child_nodes(node):
        if isinstance(child, kinds) and not child.name.startswith("_"):
            yield f"{inside}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{child.name}.")


def test_everything_public_has_a_docstring(trees):
    bare = [path for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    for path, tree in trees.items():
        for qualified, node in _public(tree):
            overload = any(
                "overload" in ast.unparse(d) for d in getattr(node, "decorator_list", ())
            )
            if not overload and not ast.get_docstring(node):  # type: ignore[arg-type]
                bare.append(f"{path}:{qualified}")
    assert bare == []


def test_importing_a_package_starts_nothing():
    """The light modules load neither torch nor a web server: `--help` must be quick."""
    code = (
        "import sys, fl_server.commands.cli, fl_server.results.checkpoint, fl_client.policy.site;"
        "import tasks.contract;"
        "print(sorted({'torch', 'fastapi', 'sqlalchemy', 'matplotlib', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
