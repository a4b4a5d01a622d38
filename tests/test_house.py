"""Shared code knows contracts, never a system; functions fit one look."""

import ast
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import smalti

ROOT = Path(smalti.__file__).parent
PATHS = sorted(ROOT.rglob("*.py"))
SUBJECTS = {"model", "tokenizer", "head", "encoder", "text_encoder", "pipe", "pipeline"}
"""What has a contract: nothing is asked of it by name."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def systems() -> dict[str, Path]:
    """Every class of a file of a system that has a name of its own, and that file."""
    shared = ("generator", "unified", "base", "encoders", "sequence", "words", "mar_stack")
    classes = [
        (node.name, path)
        for path in PATHS
        if path.parent.name in ("models", "tokenizers", "text") and path.stem not in shared
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef)
    ]
    count = Counter(name for name, _ in classes)
    return {name: path for name, path in classes if count[name] == 1}


def home(path: Path) -> Path:
    """The file of a system whose layers may stand in a file of their own."""
    return path.with_stem(path.stem.removesuffix("_layers"))


def called(tree: ast.AST, *names: str):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def last(node: ast.AST) -> str:
    """The last name of `model`, `self.model`, `pipe.model`."""
    return getattr(node, "attr", getattr(node, "id", ""))


def asked_by_name(tree: ast.AST) -> list[str]:
    """Attributes that something with a contract is asked for as if it had none."""
    calls = called(tree, "getattr", "hasattr")
    return [ast.unparse(call) for call in calls if last(call.args[0]) in SUBJECTS]


def systems_named(path: Path, tree: ast.AST) -> list[str]:
    """`isinstance` of a class of a system whose file this is not."""
    return [
        ast.unparse(call)
        for call in called(tree, "isinstance")
        for node in ast.walk(call.args[1])
        if isinstance(node, ast.Name) and home(systems().get(node.id, path)) != home(path)
    ]


def offences(check: Callable[[Path], list[str]]) -> dict[str, list[str]]:
    """What a check finds in each file that it finds something in."""
    found = {path.relative_to(ROOT).as_posix(): check(path) for path in PATHS}
    return {name: offended for name, offended in found.items() if offended}


def test_shared_code_knows_no_system():
    assert offences(lambda path: asked_by_name(parsed(path))) == {}
    assert offences(lambda path: systems_named(path, parsed(path))) == {}


def test_the_checks_find():
    assert asked_by_name(ast.parse("getattr(self.model, 'masked', False)"))
    assert asked_by_name(ast.parse("x = hasattr(tokenizer, 'moments')"))
    assert not asked_by_name(ast.parse("getattr(config, 'layers')"))
    assert systems_named(ROOT / "eval" / "x.py", ast.parse("isinstance(m, VAR | MAR)"))
    assert not systems_named(systems()["VAR"], ast.parse("isinstance(m, VAR)"))
    layers = ast.parse("isinstance(m, SingleBlock)")
    assert not systems_named(systems()["Meissonic"], layers)
    assert systems_named(systems()["MaskGIT"], layers)
    assert {"LlamaGen", "KLVAE", "T5", "VARConfig"} <= systems().keys()


def lines_of(node: ast.FunctionDef) -> int:
    """Lines of a function, its signature among them, without its docstring."""
    doc = node.body[0] if ast.get_docstring(node) else None
    lines = node.end_lineno - node.lineno + 1
    return lines - (doc.end_lineno - doc.lineno + 1 if doc else 0)


def arguments_of(node: ast.FunctionDef) -> int:
    """Arguments of a function that have a name, without `self`."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def too_long(tree: ast.AST) -> list[str]:
    """Functions of more than 40 lines beside the docstring, or more than 8 arguments."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return [node.name for node in functions if lines_of(node) > 40 or arguments_of(node) > 8]


def test_functions_are_short():
    assert offences(lambda path: too_long(parsed(path))) == {}
