"""Measure how the package is built: its size, its longest parts, its imports and its knobs. Prints a table in seconds.

    python benchmarks/structure.py                          # this checkout
    python benchmarks/structure.py --root OLD .             # two checkouts side by side
    python benchmarks/structure.py --json                   # the same numbers as JSON

What is counted, in `src/diffaug` of a checkout:

- *Lines* are all lines of the Python files; *code lines* are those without blank lines, comments and docstrings.
- A *package* is a folder of `src/diffaug`; files that lie in no folder count together as `(top)`.
- A *function* is every `def`, methods and nested ones included. Lengths are in lines, its docstring included, and for
  median and p90 also in code lines.
- *Imports* are all import statements of the package's own modules, those inside functions included, those under
  `if TYPE_CHECKING` not, since they never run. *Layers* are the packages and top files on the longest chain of imports
  between them; *cycles* are groups of modules, and of packages, that import each other on some way.
- A *knob* is a field of a class that derives from `Knobs` in `config.py`, unless it is itself a group of knobs. Knobs
  that are marked as an extent, as computing or as a place shape no result, and need no evidence.
- A knob has *evidence* if it is named (1) in docs/results.md or docs/decisions.md, in code marks (`name`, a fenced
  block) as `name`, `group.name` or `--name`; (2) as a key in a file of docs/results/; or (3) in a benchmark, as a
  string `name`, `group.name`, `name=value` or `--name`, or as an argument of a knob class or of `model_copy`. A name
  that several groups share, such as `iterations`, counts for each of them.
- A *row access* is `row["name"]` with a literal name.

Needs only the standard library.
"""

import argparse
import ast
import io
import json
import re
import statistics
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

SILENT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip
TOP = "(top)"
Graph = Mapping[str, set[str]]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Part:
    """A file, class or function with its length in lines."""

    name: str
    lines: int


@dataclass(frozen=True)
class Structure:
    """What is measured of one checkout."""

    lines: dict[str, int]  # by package
    code: dict[str, int]  # by package
    file: Part  # the longest of each
    class_: Part
    function: Part
    functions: int
    median_lines: float
    p90_lines: float
    median_code: float
    p90_code: float
    layers: list[str]  # the longest chain of imports, importing first
    module_cycles: list[list[str]]
    package_cycles: list[list[str]]
    knobs: list[str]
    unproven: list[str]  # knobs without evidence
    row_accesses: int


@dataclass(frozen=True)
class Module:
    """One parsed file of the package."""

    name: str  # dotted, without the package's own name: study.run
    path: Path
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]  # of the tree
    code: frozenset[int]  # numbers of the code lines

    @property
    def package(self) -> str:
        """The folder it lies in."""
        return self.name.split(".")[0] if "." in self.name or self.path.name == "__init__.py" else TOP


def read_modules(package: Path) -> list[Module]:
    """Parse every file of a package."""
    return [_module(path, package) for path in sorted(package.rglob("*.py"))]


def _module(path: Path, package: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(package).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    tree = ast.parse(text)
    nodes = tuple(ast.walk(tree))
    return Module(name, path, text, tree, nodes, frozenset(code_lines(text, nodes)))


def code_lines(text: str, nodes: Iterable[ast.AST]) -> set[int]:
    """Return the numbers of the lines that hold code: no blank line, comment or docstring."""
    silent: set[int] = set()
    for node in nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None:
            silent |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - silent


def definitions(modules: Iterable[Module], kinds: tuple[type, ...]) -> list[tuple[Part, int]]:
    """Return each class or function with its length in lines and in code lines."""
    found = []
    for module in modules:
        for node in module.nodes:
            if isinstance(node, kinds):
                span = range(node.lineno, (node.end_lineno or 0) + 1)
                part = Part(f"{module.name}.{node.name}".lstrip("."), len(span))
                found.append((part, len(module.code.intersection(span))))
    return found


# imports


def imports(module: Module, names: set[str], package: str = "diffaug") -> set[str]:
    """Return the modules of the package that a module imports, wherever in its text, unless for type checking alone."""
    found: set[str] = set()
    for node in _running(module.tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                steps = module.name.split(".") if module.name else []
                keep = len(steps) - node.level + (module.path.name == "__init__.py")
                base = ".".join([package, *steps[:keep], *base.split(".")]).rstrip(".")
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target != package and not target.startswith(f"{package}."):
                continue
            name = target.removeprefix(package).removeprefix(".")
            found.add(name if name in names else name.rpartition(".")[0])
    return {name for name in found if name in names and name not in ("", module.name)}


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without the blocks under `if TYPE_CHECKING`."""
    waiting = [node]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
                yield child
                waiting.append(child)


def cycles(graph: Graph) -> list[list[str]]:
    """Return the groups of nodes that reach each other, sorted."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        reach[start], waiting = set(), list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in reach[start]:
                reach[start].add(name)
                waiting += graph[name]
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def longest_chain(graph: Graph) -> list[str]:
    """Return the longest chain of imports, the importing end first; nothing where the graph has a cycle."""
    if cycles(graph):
        return []
    longest: dict[str, list[str]] = {}

    def chain(name: str) -> list[str]:
        if name not in longest:
            longest[name] = [name, *max((chain(other) for other in sorted(graph[name])), key=len, default=[])]
        return longest[name]

    return max((chain(name) for name in sorted(graph)), key=len, default=[])


def package_graph(graph: Graph) -> Graph:
    """Join the modules of each folder; a file at the top stays a node of its own."""
    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        found.setdefault(name.split(".")[0], set()).update(other.split(".")[0] for other in others)
    return {name: others - {name} for name, others in found.items()}


# knobs


def knobs_of(config: ast.Module, *, shaping: bool = False) -> list[str]:
    """Return every knob as `group.name`, such as study.iterations, in the order of the file.

    Args:
        config: The module of knobs.
        shaping: Leave out those that are marked to shape no result.
    """
    groups: dict[str, list[ast.AnnAssign]] = {"Knobs": []}
    for node in config.body:
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id in groups for b in node.bases):
            groups[node.name] = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    found = []
    for group, lines in groups.items():
        prefix = group.removesuffix("Config").lower()
        for line in lines:
            kind = ast.unparse(line.annotation)
            if shaping and re.search(r"\b(EXTENT|COMPUTING|PLACE)\b", kind):
                continue
            if isinstance(line.target, ast.Name) and kind not in groups:
                found.append(f"{prefix}.{line.target.id}".lstrip("."))
    return found


def evidence(root: Path) -> set[str]:
    """Return all names in a checkout's results, decisions and benchmarks that could name a knob, with underscores."""
    found: set[str] = set()
    for path in (root / "docs/results.md", root / "docs/decisions.md"):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for mark in re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL):
            found |= _names(mark)
    for path in sorted((root / "docs/results").glob("*.jsonl")):
        found |= set(re.findall(r'"(\w+)":', path.read_text(encoding="utf-8")))
    for path in sorted((root / "benchmarks").glob("*.py")):
        if path.name != Path(__file__).name:
            found |= _tried(ast.parse(path.read_text(encoding="utf-8")))
    return found


def _names(text: str) -> set[str]:
    """Return the words of a piece of code; options as the knobs they set."""
    return {word.removeprefix("--").replace("-", "_") for word in re.findall(r"[\w.-]+", text)}


def _tried(tree: ast.Module) -> set[str]:
    """Return the strings of a benchmark that are names, and the arguments of its knob classes and of `model_copy`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            found |= _names(node.value.partition("=")[0])
        if isinstance(node, ast.Call) and re.search(r"(Config|model_copy)$", ast.unparse(node.func)):
            found |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return found


def without_evidence(knobs: Iterable[str], names: set[str]) -> list[str]:
    """Return the knobs that no name stands for."""
    return [knob for knob in knobs if not names & {knob, knob.rpartition(".")[2]}]


# measuring and printing


def row_accesses(modules: Iterable[Module]) -> int:
    """Count where a row is read as a dictionary by a literal name."""
    return sum(
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "row"
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
        for module in modules
        for node in module.nodes
    )


def measure(root: Path) -> Structure:
    """Measure the package of a checkout.

    Raises:
        SystemExit: There is no `src/diffaug` in it.
    """
    package = root / "src/diffaug"
    if not package.is_dir():
        raise SystemExit(f"--root needs checkouts of diffaug: {root} has no src/diffaug")
    modules = read_modules(package)
    lines: dict[str, int] = {}
    code: dict[str, int] = {}
    for module in modules:
        name = module.package or TOP
        lines[name] = lines.get(name, 0) + module.text.count("\n")
        code[name] = code.get(name, 0) + len(module.code)
    names = {module.name for module in modules}
    graph = {module.name: imports(module, names) for module in modules if module.name}  # nothing imports the face
    functions = definitions(modules, FUNCTIONS)
    lengths, code_lengths = sorted(part.lines for part, _ in functions), sorted(count for _, count in functions)
    config = next(module.tree for module in modules if module.name == "config")
    knobs = knobs_of(config)
    return Structure(
        lines=lines,
        code=code,
        file=max((Part(module.name, module.text.count("\n")) for module in modules), key=_length),
        class_=max((part for part, _ in definitions(modules, (ast.ClassDef,))), key=_length),
        function=max((part for part, _ in functions), key=_length),
        functions=len(functions),
        median_lines=statistics.median(lengths),
        p90_lines=lengths[int(0.9 * len(lengths))],
        median_code=statistics.median(code_lengths),
        p90_code=code_lengths[int(0.9 * len(code_lengths))],
        layers=longest_chain(package_graph(graph)),
        module_cycles=cycles(graph),
        package_cycles=cycles(package_graph(graph)),
        knobs=knobs,
        unproven=without_evidence(knobs_of(config, shaping=True), evidence(root)),
        row_accesses=row_accesses(modules),
    )


def _length(part: Part) -> int:
    return part.lines


def table(measured: Mapping[str, Structure]) -> str:
    """Return the numbers as a Markdown table, a column for each checkout."""
    found = list(measured.values())
    packages = sorted({name for one in found for name in one.code}, key=lambda name: -found[-1].code.get(name, 0))
    rows: list[tuple[str, list[str]]] = [
        ("**lines, code lines**", [f"**{sum(one.lines.values())}, {sum(one.code.values())}**" for one in found])
    ]
    rows += [(name, [f"{s.lines.get(name, 0)}, {s.code.get(name, 0)}" for s in found]) for name in packages]
    rows += [
        ("longest file", [_said(one.file) for one in found]),
        ("longest class", [_said(one.class_) for one in found]),
        ("longest function", [_said(one.function) for one in found]),
        ("functions", [str(one.functions) for one in found]),
        ("their lines, median and p90", [f"{one.median_lines:g}, {one.p90_lines:g}" for one in found]),
        ("their code lines, median and p90", [f"{one.median_code:g}, {one.p90_code:g}" for one in found]),
        ("import layers", [str(len(one.layers)) if one.layers else "none: a cycle" for one in found]),
        ("cycles of packages", [_groups(one.package_cycles) for one in found]),
        ("cycles of modules", [_groups(one.module_cycles) for one in found]),
        ("knobs", [str(len(one.knobs)) for one in found]),
        ("knobs without evidence", [str(len(one.unproven)) for one in found]),
        ('row["..."] accesses', [str(one.row_accesses) for one in found]),
    ]
    head = ["", *measured]
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _said(part: Part) -> str:
    return f"{part.lines} ({part.name})"


def _groups(groups: list[list[str]]) -> str:
    return "; ".join(", ".join(group) for group in groups) or "none"


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description="Measure how the package is built: size, lengths, imports, knobs.")
    parser.add_argument(
        "--root", type=Path, nargs="+", default=[Path(__file__).parent.parent], help="checkouts, a column each"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    measured = {root.resolve().name: measure(root) for root in arguments.root}
    if arguments.json:
        print(json.dumps({name: asdict(one) for name, one in measured.items()}, indent=1))
        return
    print(table(measured))
    for name, one in measured.items():
        print(f"\n{name}: layers {' > '.join(one.layers) or 'unknown'}")
        print(f"{name}: knobs without evidence: {', '.join(one.unproven) or 'none'}")


if __name__ == "__main__":
    main()
