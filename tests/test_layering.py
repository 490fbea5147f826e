# SPDX-License-Identifier: Apache-2.0
"""Knowledge flows one way: csrc, enaf_ext, the parts of enaf, enaf.upscaler, {evaluate, train}, cli."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RANKS = {
    "enaf_ext": 0,
    "enaf": 1,
    "enaf.upscaler": 2,
    "enaf.evaluate": 3,
    "enaf.files": 3,
    "enaf.train": 3,
    "enaf.viewer": 3,
    "enaf.video": 3,
    "enaf.cli": 4,
    "enaf.__main__": 4,
}
MAY_TOUCH_THE_DISK = (
    "enaf.calibration",
    "enaf.image_io",
    "enaf.files",
    "enaf.checkpoint",
    "enaf.whole_file",
    "enaf.foreign",
    "enaf.train",
    "enaf.evaluate",
    "enaf.cli",
    "enaf.viewer.page",  # its own template
    "enaf.video",
    "enaf_ext._library",
)
DISK = re.compile(
    r"^(open|(torch|Image|np|numpy)\.(load|save|savez|open)|.*\.(read|write)_(text|bytes)|safetensors.*)$"
)


def _modules() -> dict[str, Path]:
    modules = {}
    for folder in (ROOT, ROOT / "python"):
        for package in ("enaf_ext", "enaf"):
            for path in sorted((folder / package).rglob("*.py")):
                name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
                modules[name] = path
    return modules


MODULES = _modules()


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Every module of ours that the source of `name` imports; `from a import b` gives a.b if that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(part for part in (package if node.level else "", node.module or "") if part)
            found = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
        else:
            continue
        yield from (module for module in found if module.split(".")[0] in ("enaf_ext", "enaf"))


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def rank(module: str) -> int:
    return RANKS[max((package for package in RANKS if within(module, package)), key=len)]


def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(), filename=str(MODULES[name]))


def test_the_modules_were_found() -> None:
    assert {"enaf_ext", "enaf_ext.grid", "enaf.models.fsrcnn", "enaf.decision", "enaf.upscaler", "enaf.cli"} <= set(
        MODULES
    )


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_look_down(name: str) -> None:
    tree = tree_of(name)
    if name in ("enaf_ext", "enaf"):  # the doors may look up, and only when they are asked
        tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.If)]
    for module in imports(name, tree):
        assert rank(module) <= rank(name), f"{name} imports {module} from a layer above"


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "enaf.models")])
def test_models_know_no_grids_files_or_edges(name: str) -> None:
    for module in imports(name, tree_of(name)):
        assert within(module, "enaf.models"), f"{name} imports {module}"


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "enaf.evaluate")])
def test_evaluation_knows_no_training(name: str) -> None:
    assert [module for module in imports(name, tree_of(name)) if within(module, "enaf.train")] == []


def test_decision_knows_no_modules() -> None:
    assert list(imports("enaf.decision", tree_of("enaf.decision"))) == []
    assert "nn" not in {node.attr for node in ast.walk(tree_of("enaf.decision")) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree_of("enaf.decision")):
        if isinstance(node, ast.ImportFrom):
            assert "nn" not in (node.module or "").split(".") + [alias.name for alias in node.names]


@pytest.mark.parametrize("name", [name for name in MODULES if not within(name, *MAY_TOUCH_THE_DISK)])
def test_only_a_few_touch_the_disk(name: str) -> None:
    tree = tree_of(name)
    used = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used.add(node.module or "")
    assert [word for word in sorted(used) if DISK.match(word)] == []


def test_cli_starts_without_torch() -> None:
    for name in (name for name in MODULES if within(name, "enaf.cli")):
        for node in tree_of(name).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                text = ast.unparse(node)
                assert not re.search(r"\b(torch|numpy|PIL|matplotlib)\b", text), (
                    f"{name}: `{text}` belongs inside run()"
                )


HEADERS = sorted((ROOT / "csrc").glob("*.h"))
WITH_TORCH = {"stable.h", "checks.h"}


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_shared_headers_know_no_torch(header: Path) -> None:
    included = re.findall(r'#include\s+[<"]([^>"]+)[>"]', header.read_text())
    if header.name not in WITH_TORCH:
        assert not [name for name in included if name.startswith(("torch/", "ATen/", "c10/")) or name in WITH_TORCH]


def test_only_one_file_touches_raw_torch_shims() -> None:
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    touching = {
        path.name for path in sources if re.search(r"\b(aoti_torch_\w+\(|torch_call_dispatcher)", path.read_text())
    }
    assert touching <= {"stable.h"}
