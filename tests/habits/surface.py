"""What people may build on, as text: names, arguments, fields, members, flags, and the format of the run folder.

Python names are read from the source text of the rooms that have a page in docs/api/: a new room is public as soon
as it has one. The run folder is described from a run, a small one, because that is what its readers get.
"""

import ast
import json
import re
from pathlib import Path

from cyclopts import App
from safetensors import safe_open

import stepcredit
from stepcredit.cli.app import app

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


def rooms():
    """The documented rooms, e.g. `stepcredit.flow`."""
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    return [room for page in pages for room in re.findall(r"^::: (\S+)", page.read_text(), flags=re.MULTILINE)]


def files_of(room):
    """The public modules of a room, or the one file that it is."""
    path = SOURCE / room.replace(".", "/")
    if not path.is_dir():
        return [path.with_suffix(".py")]
    return sorted(file for file in path.rglob("*.py") if not file.name.startswith("_") or file.name == "__init__.py")


def module_name(file):
    """`stepcredit.flow.kernels`; of an __init__.py its package."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public(name):
    return not name.startswith("_")


def arguments(function):
    """As they are called, without types: `x, velocity, level, *, noise_level=0.7`."""
    # Types are left out: they are long, and a caller does not write them. A test of types is the type checker.
    for argument in ast.walk(function.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(function.args)


def functions(body):
    """Lines for the public functions of a module or class; a property is a name without brackets."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and public(node.name):
            is_property = any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
            yield node.name if is_property else f"{node.name}({arguments(node)})"


def fields(body):
    """Lines for the public annotated names: fields of records and settings, members of protocols, constants."""
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and public(node.target.id):
            yield f"{node.target.id}: {ast.unparse(node.annotation)}"


def constants(body):
    """Public names that a module assigns."""
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and public(node.targets[0].id):
            yield node.targets[0].id


def describe_module(file):
    body = ast.parse(file.read_text(encoding="utf-8")).body
    yield from constants(body)
    yield from fields(body)
    yield from functions(body)
    for node in body:
        if isinstance(node, ast.ClassDef) and public(node.name):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield f"class {node.name}({bases})" if bases else f"class {node.name}"
            for line in (*fields(node.body), *functions(node.body)):
                yield f"    {line}"


def describe_commands(commands: App, above="stepcredit"):
    """Every command with its flags, and those of its sub-commands."""
    for name in sorted(name for name in commands if not name.startswith("-")):
        command = commands[name]
        if command.default_command is not None:  # a group of commands such as `bench` does nothing itself
            yield f"{above} {name}"
            for argument in command.assemble_argument_collection():
                yield f"    {' '.join(argument.names)}"
        yield from describe_commands(command, f"{above} {name}")


def keys(value, above=""):
    """Dotted keys of a JSON object, to its leaves."""
    if not isinstance(value, dict) or not value:
        yield above
        return
    for key, inner in value.items():
        yield from keys(inner, f"{above}.{key}" if above else key)


def describe_run(folder):
    """Files of a run, and what is in those that others read. Numbers of iterations and rows are written as N."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    # One line for all iterations; dict.fromkeys keeps the order, which a set would not.
    yield from dict.fromkeys(re.sub(r"\b\d+\b", "N", name) for name in files)
    for name in ("environment.json", "result.json", "checkpoints/000001/state.json", "samples/000000/look.json"):
        value = json.loads((folder / name).read_text(encoding="utf-8"))
        yield from describe_keys(name, value[0] if isinstance(value, list) else value)
    for name in ("metrics.jsonl", "samples/000000/scores.jsonl"):
        yield from describe_keys(name, json.loads((folder / name).read_text(encoding="utf-8").splitlines()[0]))
    with safe_open(folder / "credit" / "000000.safetensors", framework="numpy") as file:
        yield from describe_keys("credit/000000.safetensors", dict.fromkeys(file.keys()))
        yield from describe_keys("its metadata", file.metadata())


def describe_keys(name, value):
    yield f"{re.sub(r'[0-9]+', 'N', name)}:"
    for key in dict.fromkeys(map(in_general, sorted(keys(value)))):
        yield f"    {key}"


def in_general(key):
    """A key without the numbers in it, and without what hangs on the recipe: its keys, files and rewards."""
    key = re.sub(r"^(standing\.ground\.\w+)\..*", r"\1", key)
    return re.sub(r"/\d+\b|\b\d{4}(?=\.png)", lambda number: "/N" if number[0].startswith("/") else "N", key)


def surface(run):
    """Everything, in sections; `run` is the folder of a run that ended."""
    yield "# What is public. `make surface` writes this file; a change is on purpose and has a line in the changelog."
    yield from ("", "## stepcredit", "", *stepcredit.__all__)
    for file in [file for room in rooms() for file in files_of(room)]:
        described = list(describe_module(file))
        if described:
            yield from ("", f"## {module_name(file)}", "", *described)
    yield from ("", "## command line", "", *describe_commands(app))
    yield from ("", "## run folder", "", *describe_run(run))
