"""Imports point down only, and heavy packages are imported where they are needed, not where a module begins."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import python

import curate

ROOT = Path(curate.__file__).parent
# Highest first. A module may import from its own layer's line only what is its own package.
LAYERS = [
    ("cli",),
    ("console", "catalogue"),
    ("pipeline", "inspection", "verification", "calibration", "advice", "correlation", "proxy"),
    ("hub",),
    ("publication",),
    ("hub_cards", "reports"),
    ("trials",),
    ("selection",),
    ("annotations",),
    ("recipes",),
    ("filters",),
    ("likelihood", "sandbox", "diversity", "learning"),
    ("rows",),
    ("reference",),
    ("examples",),
    ("_fs", "progress"),
    ("errors",),
]
HEIGHT = {name: -place for place, names in enumerate(LAYERS) for name in names}
HEAVY = {"torch", "transformers", "datasets", "pyarrow", "trl", "peft", "detoxify", "textstat", "pandas", "accelerate", "rich"}
HEAVY |= {
    "sklearn",
    "scipy",
    "matplotlib",
    "duckdb",
    "sacrebleu",
    "math_verify",
    "sympy",
    "ftfy",
    "py3langid",
    "datasketch",
    "huggingface_hub",
    "jinja2",
}
NUMPY_AT_TOP = {"selection", "inspection", "diversity", "learning", "calibration", "advice", "correlation", "proxy", "trials"}
NUMPY_AT_TOP |= {"hub_cards", "reports", "publication"}


def part_of(path: Path) -> str:
    """The first name below the package: `filters` for filters/length.py."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Module and name of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def parts_imported(tree: ast.AST) -> set[str]:
    found = set()
    for module, name in imported(tree):
        if module == "curate" and name is not None:
            found.add(name)
        elif module.startswith("curate."):
            found.add(module.split(".")[1])
    return found - {"__version__"}


def test_every_module_has_a_layer() -> None:
    assert {part_of(path) for path in FILES} <= HEIGHT.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    mine = part_of(path)
    others = parts_imported(ast.parse(path.read_text("utf-8"))) - {mine}
    assert [other for other in sorted(others) if HEIGHT[other] >= HEIGHT[mine]] == []


def at_top(tree: ast.Module) -> Iterator[str]:
    """Packages imported when the module is: not inside functions, not for type checkers alone."""
    for node in tree.body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        for inner in ast.walk(node):
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner.body = []
        yield from (module.split(".")[0] for module, _ in imported(node))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_packages_are_imported_inside_functions(path: Path) -> None:
    heavy = HEAVY if part_of(path) in NUMPY_AT_TOP else HEAVY | {"numpy"}
    assert heavy & set(at_top(ast.parse(path.read_text("utf-8")))) == set()


@pytest.mark.parametrize(
    "code",
    [
        "import curate",
        "import curate.cli",
        "import curate; curate.load_recipe('clean'); curate.known_filters()",
        "import sys; sys.argv = ['curate', '--help']\nimport curate.cli\ntry: curate.cli.main()\nexcept SystemExit: pass",
    ],
)
def test_light_work_loads_nothing_heavy(code: str) -> None:
    done = python(f"{code}\nimport sys\nprint('loaded:', {HEAVY} & sys.modules.keys())")
    assert done.out.endswith("loaded: set()\n"), done.err
