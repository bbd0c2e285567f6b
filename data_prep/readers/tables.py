"""Tables that people bring, read strictly: what is not certain is refused with row and column.

A table has one line of headings, and rows of as many fields, parted by comma, semicolon, tab or
``|``. A first line ``sep=;``, as Excel has it, is heeded. Text is UTF-8, or UTF-16 or UTF-32 with a
byte order mark. Cells stay text: ``001`` is not 1.

The rows come from the ``csv`` module in its strict mode. pandas and polars lose the line of a row,
rename or refuse headings by rules of their own, and fill rows that are cut short.
"""

import codecs
import csv
import functools
import io
import math
import pathlib
import re
import unicodedata
from collections.abc import Iterable

from data_prep.errors import UserError

SEPARATORS = ",;\t|"
SHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
AS_CSV = "save it as CSV (UTF-8)"

#: How programs write that there is no value; a spreadsheet's errors are among them.
MISSING = frozenset(
    "nan -nan na n/a n.a. n.a #n/a #na #nv none null nil nat undefined - -- – — ? . \\n "
    "1.#ind 1.#qnan".split()
)
#: Words that may stand for a missing value, or for a class of its own.
DOUBTFUL = frozenset(
    "unknown missing unlabeled unlabelled empty blank unspecified tbd -1 -9 99 999 9999 -99 -999 "
    "n/d k.a.".split()
) | {"not available", "not known", "no label", "not labelled", "not labeled"}
_FAULT = re.compile(r"#\S+[!?]")  # of a spreadsheet, in any of its languages
_QUOTES = "'\"`´‘’“”„«»"

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ARCHIVES = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # of Excel and OpenDocument
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\ufffd]")  # the last: what could not be decoded
_SEP_LINE = re.compile(r'"?sep *= ?(.)"?[,;\t| ]*', re.IGNORECASE)
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)  # a thousand, or three decimals
_PLAIN = re.compile(r"([+-]?)0*(\d+)(?:[.,](\d*?)0*)?", re.ASCII)
_SHORTENED = re.compile(r"\d(?:[.,]\d+)?e\+\d+", re.ASCII | re.IGNORECASE)
_AS_TEXT = re.compile(r'="([^"]*)"')  # how Excel keeps 001
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"
_TRUTH = {"true": "1", "yes": "1", "false": "0", "no": "0"}


class TableError(UserError):
    """A table that cannot be read with certainty.

    ``reason`` says why without the file's name and without text from inside it.
    """

    def __init__(
        self,
        path: pathlib.Path,
        row: str,
        problem: str,
        remedy: str,
        text: str = "",
        column: str = "",
    ) -> None:
        places = [str(path), row, f"column {column}" * bool(column)]
        place = ", ".join(filter(None, places)) + (f" {text[:60]!r}" if text else "")
        super().__init__(f"{place} {problem}: {remedy}.")
        within = f"a cell in {row}" if column else row
        self.reason = f"{within} of its table {problem}" if row else f"its table {problem}"


class Row(dict[str, str]):
    """One row: heading -> text without blanks round it.

    ``number`` counts the rows of the file from 1, the headings and empty rows included, as a
    spreadsheet does; ``line`` is where the row ends in an editor.
    """

    __slots__ = ("table", "number", "line")

    def __init__(self, table: "Table", number: int, line: int, cells: Iterable[str]) -> None:
        super().__init__(zip(table.headings, cells, strict=True))
        self.table, self.number, self.line = table, number, line

    @property
    def where(self) -> str:
        """Table and row, for messages."""
        return f"{self.table.path}, {self._row}"

    @property
    def _row(self) -> str:
        return _place(self.number, self.line)

    def error(self, column: str, problem: str, remedy: str) -> TableError:
        """What to raise for a cell, which is quoted."""
        return TableError(self.table.path, self._row, problem, remedy, self[column], column)

    def given(self, column: str) -> str:
        """The text of a cell, empty where there is none or no such column.

        Raises
        ------
        TableError
            If it is a word for a missing value, or a number that a spreadsheet has shortened.
        """
        text = self.get(column, "")
        if is_missing(text):
            raise self.error(
                column, "may stand for a missing value", "leave the field empty, or fill it in"
            )
        if _SHORTENED.fullmatch(text):
            raise self.error(
                column,
                "is a number that a spreadsheet has shortened",
                "format the column as text, and enter the whole number",
            )
        return text

    def measure(self, column: str) -> float:
        """The number in a cell, with a decimal point, or with a comma where that is certain.

        Raises
        ------
        TableError
            If it is no finite number, or may be one of thousands or one with three decimals.
        """
        text = self[column]
        value = number(text)
        if value is None:
            raise self.error(column, "is no number", "write it as 1234.5")
        if _GROUPED.fullmatch(text) and ("," in text) != self.table.decimal_comma:
            raise self.error(
                column,
                "may be a number of thousands or one with three decimals",
                "write it as 1234.5 in the whole table",
            )
        return value

    def count(self, column: str) -> int:
        """The whole number from 0 in a cell.

        Raises
        ------
        TableError
            If it is none.
        """
        if not re.fullmatch(r"\d+(\.0*)?", self[column], re.ASCII):
            raise self.error(column, "is no whole number from 0", "write it as 12")
        return int(self[column].partition(".")[0])


class Table:
    """Headings (see :func:`heading`) and rows of one file."""

    def __init__(self, path: pathlib.Path) -> None:
        """Read ``path``; see :func:`read`."""
        self.path = path
        content = text(path)
        self.separator, skipped = _separator(path, content)
        records = _records(path, content, self.separator)[skipped:]
        self.headings = _headings(path, *records[0]) if records else []
        self.rows = [self._row(*record) for record in records[1:]]

    @functools.cached_property
    def decimal_comma(self) -> bool:
        """Whether some cell is a number whose comma cannot part thousands."""
        return any(
            "," in cell and not _GROUPED.fullmatch(cell) and number(cell) is not None
            for row in self.rows
            for cell in row.values()
        )

    def require(self, *columns: str, rows: bool = True) -> "Table":
        """The table itself.

        Raises
        ------
        TableError
            If it lacks a column or, unless ``rows`` is false, has no row.
        """
        if missing := [name for name in columns if name not in self.headings]:
            raise TableError(self.path, "", f"lacks the columns {', '.join(missing)}", "add them")
        if rows and not self.rows:
            raise TableError(self.path, "", "has headings but no row", "fill it in, or remove it")
        return self

    def _row(self, number: int, line: int, cells: list[str]) -> Row:
        def faulty(problem: str, remedy: str, column: str = "") -> TableError:
            return TableError(self.path, _place(number, line), problem, remedy, column=column)

        count, quote = (
            len(self.headings),
            f"put text with {_named(self.separator)} in double quotes",
        )
        if len(cells) != count:
            problem = f"has {len(cells)} fields, but there are {count} headings"
            raise faulty(problem, f"{quote}, and fill in what is cut")
        for column, cell in zip(self.headings, cells, strict=True):
            breaks = len(_LINE_ENDS.findall(cell))
            if breaks and cell.count(self.separator) == breaks * (count - 1):
                problem = "holds further rows, since a double quote is opened and not closed"
                raise faulty(problem, "close it, or take the line breaks out of the text", column)
        if sum(cell.count('"') % 2 for cell in cells) > 1:  # text cut at a separator within quotes
            raise faulty("has single double quotes in two fields", quote)
        if heading(cells[0]) == self.headings[0] and list(map(heading, cells)) == self.headings:
            raise faulty("repeats the headings", "take the row out")
        # Text below no heading is what an unquoted separator has moved there; only the first
        # column may be without, as pandas writes the numbers of rows.
        if any(cells[place] for place in range(1, count) if not self.headings[place]):
            raise faulty("has text in a column without a heading", f"{quote}, or name the column")
        return Row(self, number, line, cells)


def read(path: pathlib.Path) -> Table:
    """Read a table.

    Raises
    ------
    TableError
        If it is no text, its encoding, separator or quotes are not certain, two columns have one
        name, or a row has more or fewer fields than there are headings.
    """
    return Table(path)


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The table of that name in a folder; None where there is none.

    Raises
    ------
    UserError
        If a spreadsheet has its place.
    """
    path = folder / name
    if path.is_file():
        return path
    for suffix in SHEETS:
        if (sheet := path.with_suffix(suffix)).is_file():
            raise UserError(f"{sheet} is a spreadsheet, which is not read: {AS_CSV} as {name}.")
    return None


def sheets(folder: pathlib.Path, files: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Spreadsheets among the files that lie directly in the folder, without Excel's locks."""
    return [
        path
        for path in files
        if path.parent == folder
        and path.suffix.lower() in SHEETS
        and not path.name.startswith("~$")
    ]


def text(path: pathlib.Path) -> str:
    """The text of a file, without its byte order mark.

    Raises
    ------
    TableError
        If it cannot be read, is a spreadsheet, or its encoding is not certain.
    """
    if not path.is_file():  # a pipe would be waited for
        raise TableError(path, "", "is no regular file", "copy the table in")
    try:
        data = path.read_bytes()
    except OSError as error:
        problem = f"is not a readable table ({error.strerror})"
        raise TableError(path, "", problem, "see to its permissions") from error
    if data.startswith(_ARCHIVES):
        problem = "is a spreadsheet under the name of a table"
        raise TableError(path, "", problem, f"open it and {AS_CSV}")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        content = data.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = len(_LINE_ENDS.findall(data[: error.start].decode("latin-1"))) + 1
        problem = f"is not a readable table: line {line} is not {encoding.upper()}"
        remedy = f"letters beyond ASCII are not certain then, so {AS_CSV}"
        raise TableError(path, "", problem, remedy) from error
    if found := _CONTROL.search(content):
        line = len(_LINE_ENDS.findall(content[: found.start()])) + 1
        kind = "character of a lost letter" if found[0] == "\ufffd" else "control character"
        problem = f"is not a readable table: line {line} holds the {kind} {ascii(found[0])}"
        raise TableError(path, "", problem, AS_CSV)
    return content


def lines(path: pathlib.Path) -> list[str]:
    r"""Lines of a text file, which end in \\n, \\r or both; raises as :func:`text`."""
    return _LINE_ENDS.split(text(path))


def heading(name: str) -> str:
    """A heading as it is looked up: small letters of usual width, single blanks."""
    return " ".join(_plain(name).lower().split())


def is_missing(word: str) -> bool:
    """Whether a word says that there is no value, perhaps in quotes or brackets."""
    word = _plain(word).strip().lower()
    bare = word.strip(_QUOTES + "<>()[]").strip()
    return bool(word) and (not bare or bare in MISSING or bool(_FAULT.fullmatch(bare)))


def number(text: str) -> float | None:
    """A finite number with a decimal point or comma, None for anything else.

    Only digits, sign and exponent are read: no nan, no underscore, no digits beyond ASCII.
    """
    text = text.replace(",", ".", 1) if "." not in text else text
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def key(word: str, truth: bool = False) -> str:
    """What words have in common that differ in writing only.

    Such differences are capitals, blanks, quotes round the word, letters of another width and
    characters without a form; for numbers zeros that change nothing. With ``truth``, yes and true
    are 1, no and false 0.
    """
    folded = " ".join(_plain(word).strip(_QUOTES).casefold().split())
    if match := _PLAIN.fullmatch(folded):
        sign, whole, decimals = match.groups()
        return f"{sign.strip('+')}{whole}{'.' * bool(decimals)}{decimals or ''}"
    return _TRUTH.get(folded, folded) if truth else folded


def require_distinct(what: str, found: Iterable[tuple[str, str]]) -> None:
    """Make sure that no two words differ in writing only.

    Parameters
    ----------
    what : str
        What they name: class, subject.
    found : iterable of (word, place)
        The place is for the message.

    Raises
    ------
    UserError
        Which says both words and where they are.
    """
    known: dict[str, tuple[str, str]] = {}
    for word, place in found:
        word = unicodedata.normalize("NFC", word)
        other, before = known.setdefault(key(word, what == "class"), (word, place))
        if other != word:
            how = "capitals" if other.casefold() == word.casefold() else "writing"
            raise UserError(
                f"The {what} names '{other}' and '{word}' differ in {how} only ({before}; "
                f"{place}): write them alike."
            )


def _bare(cell: str) -> str:
    cell = cell.strip().strip(_INVISIBLE).strip()
    match = _AS_TEXT.fullmatch(cell)
    return match[1] if match else cell


def _plain(text: str) -> str:
    """Text in letters of usual width, without characters that have no form."""
    wide = unicodedata.normalize("NFKC", text)
    return "".join(char for char in wide if unicodedata.category(char) != "Cf")


def _named(separator: str) -> str:
    return {"\t": "tabs"}.get(separator, f"'{separator}'")


def _place(number: int, line: int) -> str:
    return f"row {number}" if number == line else f"row {number} (to line {line})"


def _records(path: pathlib.Path, content: str, separator: str) -> list[tuple[int, int, list[str]]]:
    """Number, last line and cells of each record that is not empty."""
    # Only \\n, \\r and \\r\\n end a line here; str.splitlines knows eight more.
    reader = csv.reader(
        io.StringIO(content, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    found = []
    try:
        number = 0
        for number, cells in enumerate(reader, 1):
            if any(cells := [_bare(cell) for cell in cells]):
                found.append((number, reader.line_num, cells))
    except csv.Error as error:
        why = "a double quote is opened and not closed" if "end of data" in str(error) else error
        raise TableError(
            path,
            _place(number + 1, reader.line_num),
            f"is not a readable table: {why}",
            "close every double quote, and write those inside text twice",
        ) from error
    return found


def _separator(path: pathlib.Path, content: str) -> tuple[str, int]:
    """What parts the fields, and whether the first line only says so."""
    first, *rest = _LINE_ENDS.split(content.lstrip(), maxsplit=1)
    said = _SEP_LINE.fullmatch(first.rstrip(" "))
    if said and said[1] not in SEPARATORS:
        problem = "names another separator than , ; | or tab"
        raise TableError(path, "row 1", problem, AS_CSV, first.strip())
    # Quoted headings may hold separators.
    bare = re.sub(r'"[^"]*"', '""', rest[0] if said and rest else content).lstrip("\r\n ")
    bare = _LINE_ENDS.split(bare, maxsplit=1)[0]
    marks = [mark for mark in ",;\t" if mark in bare] or [mark for mark in "|" if mark in bare]
    if said:
        if marks and said[1] not in bare:
            problem = f"says {first.strip()}, but the headings are parted otherwise"
            raise TableError(path, "row 1", problem, "remove the line")
        return said[1], 1
    if path.suffix.lower() == ".tsv" and "\t" in marks:
        marks = ["\t"]
    if len(marks) < 2:
        return marks[0] if marks else ",", 0
    fitting = []
    for mark in marks:
        try:
            widths = {len(cells) for _, _, cells in _records(path, content, mark)}
        except TableError:
            continue
        if len(widths) == 1:
            fitting.append(mark)
    if len(fitting) == 1:
        return fitting[0], 0
    problem = f"may be parted by {' or '.join(map(_named, marks))}"
    raise TableError(path, "row 1", problem, "put text that holds them in double quotes")


def _headings(path: pathlib.Path, number: int, line: int, cells: list[str]) -> list[str]:
    where = _place(number, line)
    if len(cells[0]) > 1 and cells[0].startswith("#"):
        problem = "begins with '#', so it is not certain what the headings are"
        raise TableError(path, where, problem, "take comments and the '#' out")
    names = [heading(cell) for cell in cells]
    for place, name in enumerate(names):
        if name and names.index(name) < place:
            raise TableError(
                path,
                where,
                f"gives columns {names.index(name) + 1} and {place + 1} one name",
                "rename or remove one",
                cells[place],
            )
    return names
