"""Reads the Python installation's own standard library as English prose and as source code.

Every module (`asyncio.events`) belongs to exactly one part, by a hash of its dotted name: the same
on every machine and in every Python version. The pretraining part is what the embedded model has
read; the other three are the splits of the tasks. Prose is held apart sentence by sentence as well.
"""

import ast
import hashlib
import importlib
import inspect
import os
import re
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypedDict, TypeVar

Part = Literal["pretraining", "train", "validation", "test"]

# A part's upper end on the hash's scale of 0..99: 17 % test, 5 % validation, 23 % train, 55 % pretraining.
# The order is also the order of claims: a sentence or a piece of code that occurs twice stays in the first.
PART_ENDS: Final[dict[Part, int]] = {"test": 17, "validation": 22, "train": 45, "pretraining": 100}
# Chosen among many so that every package of `PACKAGES` has docstrings in each part.
SALT: Final = "myosotis-40739"

TEST_FOLDERS: Final = {"test", "tests", "idle_test"}
# Tables written by a program, which teach neither English nor programming.
GENERATED_FOLDERS: Final = {"encodings", "pydoc_data"}

# Packages of several modules, with the most docstrings, that every supported Python has.
PACKAGES: Final = (
    "asyncio", "email", "http", "idlelib", "importlib", "multiprocessing", "tkinter", "xml",
)  # fmt: skip
PACKAGE_ROWS: Final[dict[Part, int]] = {"test": 40, "validation": 40, "train": 80, "pretraining": 80}
PACKAGE_CHARACTERS: Final = 400

SHORTEST_PROSE: Final = 40
SUMMARY_LETTERS: Final = (20, 80)
SHORTEST_CODE: Final = 60
# Below this share of letters and spaces a paragraph is a table, a grammar or an example.
LETTERS: Final = 0.8

BLANK_LINES: Final = re.compile(r"\n\s*\n")
SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
# Strings are matched, and kept, so that a `#` inside one is not taken for a comment.
STRING_OR_COMMENT: Final = re.compile(
    r'("""(?:\\.|[^\\])*?"""'
    r"|'''(?:\\.|[^\\])*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'(?:\\.|[^'\\\n])*')"
    r"|[ \t]*#[^\n]*",
    re.DOTALL,
)

COMMENT_RUN: Final = re.compile(r"(?:^[ \t]*#[^\n]*\n)+", re.MULTILINE)
COMMENT_MARK: Final = re.compile(r"^[ \t]*#+!?", re.MULTILINE)

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Block = ast.stmt | ast.excepthandler | ast.match_case


class Row(TypedDict):
    """A text and the dotted name of the module that it was read from."""

    text: str
    module: str


class Module(NamedTuple):
    """What is read from a module: its docstrings, and its code in pieces without them."""

    name: str
    docstrings: tuple[str, ...]
    code: tuple[str, ...]


class LabelledRow(TypedDict):
    """A docstring's beginning and the package that it belongs to."""

    text: str
    label: str


class SummaryRow(TypedDict):
    """A function's source without its docstring and comments, and the docstring's first line."""

    source: str
    target: str


AnyRow = TypeVar("AnyRow", Row, LabelledRow, SummaryRow)


def part_of(module: str) -> Part:
    """Returns the one part that a module, given by its dotted name, belongs to."""
    digest = hashlib.sha256(f"{SALT}:{module}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") % 100
    return next(part for part, end in PART_ENDS.items() if position < end)


@cache
def docs(part: Part) -> tuple[Row, ...]:
    """Returns a part's docstrings as English prose, one row a docstring.

    Paragraphs are joined by an empty line. Examples and tables are left out, and no sentence of a
    row occurs in a part that stands before this one in `PART_ENDS`.
    """
    return tuple(_unclaimed_prose(_docstrings(part), _earlier_sentences(part)))


@cache
def code(part: Part) -> tuple[Row, ...]:
    """Returns a part's source code without docstrings and comments.

    One row a top-level class or function, or a run of the statements between them. No row occurs
    twice, nor in a part that stands before this one in `PART_ENDS`.
    """
    seen = {row["text"] for earlier in _earlier(part) for row in code(earlier)}
    rows = []
    for module in _modules(part):
        for text in module.code:
            if len(text) >= SHORTEST_CODE and text not in seen:
                seen.add(text)
                rows.append(Row(text=text, module=module.name))
    return tuple(rows)


@cache
def modules(part: Part) -> tuple[LabelledRow, ...]:
    """Returns beginnings of docstrings labelled by their package, at most `PACKAGE_ROWS` a package."""
    counts: Counter[str] = Counter()
    rows = []
    for row in docs(part):
        label = row["module"].partition(".")[0]
        if label in PACKAGES and counts[label] < PACKAGE_ROWS[part]:
            counts[label] += 1
            rows.append(LabelledRow(text=row["text"][:PACKAGE_CHARACTERS], label=label))
    return tuple(rows)


@cache
def comments(part: Part) -> tuple[Row, ...]:
    """Returns a part's comments as English prose, one row a run of whole-line comments; none occurs twice."""
    runs = (
        Row(text=COMMENT_MARK.sub("", run), module=name)
        for name, path in _paths().items()
        if part_of(name) == part
        for run in COMMENT_RUN.findall(_source(path))
    )
    return tuple(row for row in _unclaimed_prose(runs, frozenset()) if " " in row["text"])


@cache
def summaries(part: Part) -> tuple[SummaryRow, ...]:
    """Returns a part's functions with their summary lines, of `SUMMARY_LETTERS` letters.

    No summary and no source occurs twice, nor in a part that stands before this one in `PART_ENDS`.
    """
    earlier = [row for before in _earlier(part) for row in summaries(before)]
    seen = {text for row in earlier for text in row.values()}
    rows = []
    for name, path in _paths().items():
        if part_of(name) == part:
            for row in _summaries(_source(path)):
                if seen.isdisjoint(row.values()):
                    seen.update(row.values())
                    rows.append(row)
    return tuple(rows)


def _summaries(source: str) -> Iterator[SummaryRow]:
    """Yields the functions of a source that have a summary line."""
    for node in _definitions(ast.parse(source)):
        summary = (ast.get_docstring(node) or "").strip().split("\n")[0].strip()
        shortest, longest = SUMMARY_LETTERS
        said = shortest <= len(summary) <= longest and summary[0].isalpha() and "=" not in summary
        if isinstance(node, ast.ClassDef) or not said:  # some say only how they are called
            continue
        lines = _without_docstrings(source.split("\n"), [node])[node.lineno - 1 : node.end_lineno]
        # A string may go on left of its function: it stays where it is.
        margin = node.col_offset
        code = _compact([line[margin:] if not line[:margin].strip() else line for line in lines])
        if summary not in code:
            yield SummaryRow(source=code, target=summary)


def shuffled(rows: Sequence[AnyRow]) -> tuple[AnyRow, ...]:
    """Returns rows in an order that has nothing to do with their modules: the same everywhere."""
    return tuple(
        sorted(rows, key=lambda row: hashlib.sha256(str(next(iter(row.values()))).encode()).digest())
    )


@cache
def pretraining_texts() -> tuple[str, ...]:
    """Returns what the embedded model has read: the pretraining part's prose and the language reference.

    The language reference is the text of `pydoc_data.topics`; without that module it is left out.
    """
    prose = [row["text"] for row in docs("pretraining")]
    reference = _unclaimed_prose(_reference(), _earlier_sentences("pretraining"))
    return (*prose, *(row["text"] for row in reference))


@cache
def fingerprint() -> str:
    """Returns a hash of the names and the contents of all modules that can be read."""
    digest = hashlib.sha256()
    for module, path in _paths().items():
        digest.update(module.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def parse(name: str, source: str) -> Module:
    """Parses a module's source.

    The syntax tree is dropped at once: with all trees kept, the garbage collector takes longer than
    the parser.
    """
    tree = ast.parse(source)
    documented = [node for node in (tree, *_definitions(tree)) if ast.get_docstring(node, clean=False)]
    docstrings = tuple(ast.get_docstring(node) or "" for node in documented)
    lines = _without_docstrings(source.split("\n"), documented)
    return Module(name, docstrings, tuple(filter(None, _chunks(lines, tree))))


def sentences(text: str) -> frozenset[str]:
    """Returns the sentences of a text, cut after full stops, question and exclamation marks."""
    return frozenset(
        sentence for paragraph in text.split("\n\n") for sentence in SENTENCE_END.split(paragraph)
    )


@cache
def _paths() -> dict[str, Path]:
    """Returns the file of every module, by dotted name, in the names' order."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = {}
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if _is_read(name)]
        for file in files:
            path = Path(folder, file)
            if path.suffix == ".py" and _is_read(path.stem):
                names = path.relative_to(library).with_suffix("").parts
                paths[".".join(name for name in names if name != "__init__")] = path
    return dict(sorted(paths.items()))


def _is_read(name: str) -> bool:
    """Tells whether a folder or a module is read.

    Names with a hyphen, such as `site-packages`, are no modules. `_sysconfigdata_…` describes the
    machine.
    """
    return (
        name.isidentifier()
        and name not in TEST_FOLDERS | GENERATED_FOLDERS
        and not name.startswith("_sysconfigdata")
    )


@cache
def _modules(part: Part) -> tuple[Module, ...]:
    return tuple(_read(name, path) for name, path in _paths().items() if part_of(name) == part)


def _read(name: str, path: Path) -> Module:
    return parse(name, _source(path))


def _source(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def _earlier(part: Part) -> Iterator[Part]:
    """Yields the parts whose claims come before this one's."""
    for earlier in PART_ENDS:
        if earlier == part:
            return
        yield earlier


def _definitions(block: ast.AST) -> Iterator[Definition]:
    """Yields the classes and functions inside a block, however deep, in the order of the source."""
    for child in ast.iter_child_nodes(block):
        if isinstance(child, Block):
            if isinstance(child, Definition):
                yield child
            yield from _definitions(child)


def _docstrings(part: Part) -> Iterator[Row]:
    for module in _modules(part):
        for docstring in module.docstrings:
            yield Row(text=docstring, module=module.name)


def _reference() -> Iterator[Row]:
    """Yields the topics of the language reference, under the module that holds them."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ModuleNotFoundError:
        return
    for text in topics.values():
        yield Row(text=inspect.cleandoc(text), module="pydoc_data.topics")


def _paragraphs(text: str) -> Iterator[str]:
    """Yields the paragraphs of English, each on one line."""
    for paragraph in BLANK_LINES.split(text):
        line = " ".join(paragraph.split())
        letters = sum(character.isalpha() or character == " " for character in line)
        if ">>>" not in line and letters > LETTERS * len(line):
            yield line


@cache
def _part_sentences(part: Part) -> frozenset[str]:
    return frozenset().union(
        *(sentences(paragraph) for row in _docstrings(part) for paragraph in _paragraphs(row["text"]))
    )


def _earlier_sentences(part: Part) -> frozenset[str]:
    return frozenset().union(*(_part_sentences(earlier) for earlier in _earlier(part)))


def _unclaimed_prose(rows: Iterable[Row], claimed: frozenset[str]) -> Iterator[Row]:
    """Yields the rows' prose without the paragraphs that hold a claimed sentence or came before."""
    seen: set[str] = set()
    for row in rows:
        paragraphs = [
            paragraph
            for paragraph in _paragraphs(row["text"])
            if paragraph not in seen and claimed.isdisjoint(sentences(paragraph))
        ]
        seen.update(paragraphs)
        text = "\n\n".join(paragraphs)
        if len(text) >= SHORTEST_PROSE:
            yield Row(text=text, module=row["module"])


def _chunks(lines: list[str], tree: ast.Module) -> Iterator[str]:
    """Yields the code of a module: each top-level definition, and each run of statements between."""
    start = 0
    for node in tree.body:
        if isinstance(node, Definition):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            yield _compact(lines[start:first])
            yield _compact(lines[first : node.end_lineno])
            start = node.end_lineno or start
    yield _compact(lines[start:])


def _without_docstrings(lines: list[str], documented: Iterable[ast.Module | Definition]) -> list[str]:
    """Empties the lines of docstrings; a body that was nothing else becomes `pass`."""
    for node in documented:
        docstring = node.body[0]
        first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
        rest = "pass" if len(node.body) == 1 else ""
        lines[first:last] = [lines[first][: docstring.col_offset] + rest] + [""] * (last - first - 1)
    return lines


def _compact(lines: list[str]) -> str:
    """Joins lines of code without their comments and without the empty lines that these leave."""
    text = STRING_OR_COMMENT.sub(lambda match: match[1] or "", "\n".join(lines))
    return "\n".join(line.rstrip() for line in text.split("\n") if line.strip())
