"""Tables as people bring them: read as they are written, or refused with the place."""

import csv
import itertools

import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.readers import _colonoscopy, _points, _volumes, boundary_csv, tables
from data_prep.readers._images import Unusable
from tests.data_prep.pictures import save, texture
from tests.data_prep.readers import synthetic
from tests.data_prep.readers.colonoscopy_files import disc, pattern, write_image
from tests.data_prep.readers.test_classification import facts, find

HEAD = "path,label,subject"


def read(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tables.read(path)


def refused(tmp_path, content, *said):
    with pytest.raises(tables.TableError) as caught:
        read(tmp_path, content).require("path", "label")
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path / "t.csv") in message
    assert not [words for words in said if words not in message], message
    assert str(tmp_path) not in caught.value.reason and "Anna" not in caught.value.reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,label,label,subject\na,b,c,d\n", ["row 1", "'label'", "columns 2 and 3"]),
        ("path,Label,label \na,b,c\n", ["row 1", "columns 2 and 3"]),
        ("path,label, LABEL\na,b,c\n", ["columns 2 and 3"]),
        ("path;la\u00a0bel;la  bel\na;b;c\n", ["columns 2 and 3"]),
        (f"{HEAD}\na,Mass, benign,Anna\n", ["row 2", "4 fields", "3 headings", "double quotes"]),
        (f"{HEAD}\na,b,c\n\nd,e\n", ["row 4", "2 fields", "cut"]),
        (f"{HEAD}\na,b,c,\n", ["row 2", "4 fields"]),
        (f"{HEAD},\na,Mass, benign,Anna\n", ["row 2", "without a heading"]),
        (f"{HEAD},,\na,b,c,,\nd,Mass, benign,Anna,\n", ["row 3", "without a heading"]),
        (f'{HEAD}\na,"b,c\nd,e,f\n', ["row 2", "double quote"]),
        (f'{HEAD}\na,b,"c\nd,e,"f"\n', ["row 2", "double quote"]),
        (f'{HEAD}\na,b,"Anna\nd,e,f\ng,h,"\n', ["row 2 (to line 4)", "subject", "further rows"]),
        (f'{HEAD}\na,"b,c\nd,e",f\n', ["row 2", "label", "further rows"]),
        ('path,label\na,"b\nc,d"\n', ["row 2", "label", "further rows"]),
        (f'{HEAD}\na,"b"c,d\n', ["row 2", "double quote"]),
        (f'{HEAD}\na,"b\\",c",d\n', ["row 2", "double quote"]),
        (f"{HEAD}\na,b,c\x00\n", ["line 2", "control character", "CSV (UTF-8)"]),
        (f"{HEAD}\na,\x1b$B,c\n", ["line 2", "control character"]),  # ISO-2022-JP
        (f"{HEAD}\na,b,c\n\x1a", ["line 3", "control character"]),
        (f"{HEAD}\na,Tum\ufffdr,c\n", ["line 2", "lost letter"]),
        ("path,label,ｌａｂｅｌ\na,b,c\n", ["columns 2 and 3"]),
        ("path,label,label\u200b\na,b,c\n", ["columns 2 and 3"]),
        ("sep=^\npath^label\na^b\n", ["row 1", "sep=^", "another separator"]),
        (f"{HEAD}\na,Tumör,c\n".encode("cp1252"), ["line 2", "UTF-8"]),
        (f"{HEAD}\na,良性,c\n".encode("shift_jis"), ["line 2", "UTF-8"]),
        (f"{HEAD}\na,良性,c\n".encode("gb18030"), ["line 2", "UTF-8"]),
        (f"{HEAD}\na,b,c\n".encode("utf-16-le"), ["line 1", "control character"]),
        (b"\xff\xfep\x00\x00\xd8", ["UTF-16"]),
        (f'{HEAD}\na"Mass, benign",c\n', ["row 2", "double quotes in two fields"]),
        (b"PK\x03\x04 and so on", ["spreadsheet", "save it as CSV"]),
        (b"\xd0\xcf\x11\xe0 and so on", ["spreadsheet", "save it as CSV"]),
        (f"# made by Anna, 3 May\n{HEAD}\na,b,c\n", ["row 1", "'#'"]),
        ("#path,label\na,b\n", ["row 1", "'#'"]),
        (f"Export of 3 May\n\n{HEAD}\na,b,c\n", ["row 3", "3 fields"]),
        (f"sep=;\n{HEAD}\na,b,c\n", ["row 1", "sep=;", "parted otherwise"]),
        (f"{HEAD}\na,b,c\nPath,label,subject\nd,e,f\n", ["row 3", "repeats the headings"]),
        (f"{HEAD}\na,b,c\n\ufeff{HEAD}\nd,e,f\n", ["row 3", "repeats the headings"]),
        ("sep=x\npathxlabel\naxb\n", ["row 1", "separator"]),
        ("path;label,x\na;b,c\n", ["row 1", "',' or ';'"]),
        ("path,label\n", ["headings but no row"]),
        ("path,class\na,b\n", ["lacks the columns label"]),
        ("", ["lacks the columns path, label"]),
    ],
)
def test_what_is_not_certain_is_refused(tmp_path, content, said):
    refused(tmp_path, content, *said)


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na,b\n\nc,d\n",
        "path;label\na;b\nc;d",
        "path\tlabel\r\na\tb\r\nc\td\r\n",
        "path|label\ra|b\rc|d\r",
        "sep=;\npath;label\na;b\nc;d\n",
        '"SEP=,"\r\npath,label\r\na,b\r\nc,d\r\n',
        "sep=\t\npath\tlabel\na\tb\nc\td\n",
        "sep = ;\npath;label\na;b\nc;d\n",
        '\ufeff"path","label"\n"a","b"\n"c","d"\n',
        '"\ufeffpath","label"\n"a","b"\n"c","d"\n',
        " Path , LABEL\n a , b\nc,\td \n",
        'path, "label"\na, "b"\nc, d\n',
        ",path,label\n0,a,b\n1,c,d\n",
        "path,label,,\na,b,,\nc,d,,\n,,,\n",
        "path;label\na;b\n;\n \n;\nc;d\n",
        "\n\npath,label\na,b\nc,d\n",
        'path,label\n\u200ba,="b"\nc,"=""d"""\n',
    ],
)
def test_what_is_certain_is_read(tmp_path, content):
    table = read(tmp_path, content)
    assert [(row["path"], row["label"]) for row in table.rows] == [("a", "b"), ("c", "d")]


def test_rows_are_counted_as_in_the_file(tmp_path):
    content = 'sep=,\n\npath,label\na,b\n\n"two\nlines",c\nd,e\n'
    rows = read(tmp_path, content).rows
    assert [row.where.partition(", ")[2] for row in rows] == [
        "row 4", "row 6 (to line 7)", "row 7 (to line 8)",
    ]  # fmt: skip


def test_text_stays_text_and_ends_where_the_file_says(tmp_path):
    words = ["001", "1.0", "1e3", "0x1f", "inf", "TRUE", "1,5", "５", 'he "said"', "a;b"]
    words += [f"x{mark}y" for mark in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"]
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["word", "next"], *((word, "z") for word in words)])
    assert [row["word"] for row in tables.read(path).rows] == words


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1.5", "-.5", "+2.", "1e3", "007"], [1.5, -0.5, 2, 1000, 7]),
        (["1,5", "0,060", "-3,25", "1,500", "12"], [1.5, 0.06, -3.25, 1.5, 12]),
        (["1.500", "2.250"], [1.5, 2.25]),
        (["0,500"], [0.5]),
        (["1234,567"], [1234.567]),
    ],
)
def test_numbers(tmp_path, cells, values):
    table = read(tmp_path, "x;y\n" + "".join(f"{cell};\n" for cell in cells))
    assert [row.measure("x") for row in table.rows] == values


@pytest.mark.parametrize(
    "cells",
    [
        ["1,500"], ["1.500", "2,5"], ["1,234.5"], ["1.234,5"], ["1,234,567"], ["1 234"],
        ["1'234"], ["1\u00a0234"], ["0x1f"], ["inf"], ["-Infinity"], ["nan"], ["1_000"], ["１"],
        ["٣"], ["1e999"], ["1.5 mm"], ["--1"], [""], ["1,5,"], ["½"],
    ],
)  # fmt: skip
def test_what_is_no_certain_number(tmp_path, cells):
    table = read(tmp_path, "x;y\n" + "".join(f"{cell};a\n" for cell in cells))
    with pytest.raises(tables.TableError, match=r"row 2, column x"):
        table.rows[0].measure("x")
    with pytest.raises(tables.TableError, match=r"row 2, column x"):
        table.rows[0].count("x")


def test_words_that_differ_in_writing_only():
    same = [
        ["1", "1.0", "01", "+1", "1.", "1,0", "true", "Yes", "１"],
        ["0", "0.0", "FALSE", "no"],
        ["Mass  benign", "mass benign", "mass\u00a0benign", "mass\u200b benign"],
        ["12345678901234567", "012345678901234567"],
        ["1.5", "1.50"],
    ]
    other = ["10", "-1", "12345678901234568", "1.05", "mass", "p1", "massbenign", "n", "f"]
    keys = [{tables.key(word, truth=True) for word in group} for group in same]
    assert [len(group) for group in keys] == [1] * len(same)
    found = [*itertools.chain(*keys), *(tables.key(word, truth=True) for word in other)]
    assert len(set(found)) == len(same) + len(other)
    assert tables.key("yes") != tables.key("1")
    with pytest.raises(UserError, match="'1' and '1.0'.*row 2.*row 5"):
        tables.require_distinct("class", [("1", "row 2"), ("0", "row 3"), ("1.0", "row 5")])
    tables.require_distinct("class", [("J\u00f6rg", "a"), ("Jo\u0308rg", "b")])  # NFC, NFD


class TestClasses:
    """Tables of labels."""

    @pytest.fixture
    def root(self, tmp_path):
        for number in range(6):
            save(tmp_path / "img" / f"{number}.png", texture(number))
        return tmp_path

    def table(self, root, labels, subjects="abcdef", sep=","):
        rows = [
            sep.join((f"img/{i}.png", label, subject))
            for i, (label, subject) in enumerate(zip(labels, subjects, strict=True))
        ]
        (root / "t.csv").write_text("\n".join([HEAD.replace(",", sep), *rows]) + "\n")

    def test_text_of_labels_and_subjects(self, root):
        self.table(root, ["0", "1", "0", "1", "2", "2"], ["001", "002", "010", "x", "1e", "-x"])
        found = find(root)
        assert found.classes == ("0", "1", "2")
        subjects = [who for _, who, _ in facts(found).values()]
        assert subjects == ["001", "002", "010", "x", "1e", "-x"]

    @pytest.mark.parametrize(
        "words",
        [
            ["nan"], ["NaN"], ["NA"], ["N/A"], ["None"], ["null"], ["-"], ["#N/A"], ["#REF!"],
            ["NaT"], ["<NA>"], ["?"], ["–"], ["'nan'"], ["(null)"], ["#NV"], ["#¡VALOR!"],
            ["#NOM?"], ["\\N"], ["N.A"], ["ｎａｎ"], ["<none>"],
        ],
    )  # fmt: skip
    def test_words_for_missing_values(self, root, words):
        word = words[0]
        self.table(root, ["pos", "neg", word, "pos", "neg", "pos"])
        with pytest.raises(UserError, match=r"t\.csv, row 4, column label .*missing value"):
            find(root)
        classes = ("neg", "pos", word)
        assert find(root, classes=classes).classes == classes
        self.table(root, ["pos", "neg"] * 3, ["a", word, "b", word, "c", "d"])
        with pytest.raises(UserError, match=r"t\.csv, row 3, column subject .*missing value"):
            find(root)

    @pytest.mark.parametrize(
        "labels",
        [
            ("0", "1", "1.0"), ("no", "yes", "1"), ("False", "True", "0"), ("pos", "neg", "Pos"),
            ("a b", "c", "a  b"), ("1", "2", "01"), ("a\u200bx", "ax", "b"), ("1", "0", "１"),
            ("pos", "neg", "'pos'"), ("pos", "neg", "“pos”"),
        ],
    )  # fmt: skip
    def test_labels_in_two_ways(self, root, labels):
        self.table(root, [*labels, *labels])
        with pytest.raises(UserError, match=r"differ in (writing|capitals) only.*t\.csv, row"):
            find(root)

    @pytest.mark.parametrize("word", ["unknown", "Missing", "-1", "999", "not available"])
    def test_classes_called_like_a_missing_value(self, root, caplog, word):
        self.table(root, ["0", "1", word, "0", "1", "1"])
        assert word in find(root).classes
        assert f"The class '{word}' is called like a missing value" in caplog.text
        caplog.clear()
        find(root, classes=("0", "1", word))
        self.table(root, ["0", "1", "2", "0", "1", "2"])
        find(root)
        assert not caplog.text

    @pytest.mark.parametrize("sep", [" ", ":", "  ", "~"])
    def test_fields_parted_by_something_else(self, root, sep):
        self.table(root, ["pos", "neg"] * 3, sep=sep)
        with pytest.raises(UserError, match=r"t\.csv, row 1 has one field .* commas, semicolons"):
            find(root)

    @pytest.mark.parametrize("who", ["1.0", "01", "1 ", "a1"])
    def test_subjects_in_two_ways(self, root, who):
        other = "A1" if who == "a1" else "1"
        self.table(root, ["pos", "neg"] * 3, [other, who, "b", "c", "d", "e"])
        if who.strip() == other:
            assert [p.subject for p in find(root).pictures[:2]] == [other, other]
            return
        with pytest.raises(UserError, match="subject names.*row 2.*row 3"):
            find(root)

    def test_subjects_that_a_spreadsheet_has_shortened(self, root):
        self.table(root, ["pos", "neg"] * 3, ["1.23457E+12"] * 6)
        with pytest.raises(UserError, match=r"row 2, column subject '1.23457E\+12' .*shortened"):
            find(root)

    def test_one_image_by_two_paths(self, root):
        rows = ["img/0.png,pos", "img/1.png,neg", "img/../img//0.png,neg"]
        (root / "t.csv").write_text("\n".join(["path,label", *rows]))
        with pytest.raises(UserError, match=r"row 4 names img/0\.png, as .*row 2 does"):
            find(root)

    def test_a_column_that_is_not_there(self, root):
        self.table(root, ["pos", "neg"] * 3)
        with pytest.raises(
            UserError, match=r"t\.csv has no column 'Patient', which --columns names"
        ):
            find(root, columns={"subject": "Patient"})

    @pytest.mark.parametrize("name", ["labels.xlsx", "labels.XLS", "labels.ods"])
    def test_a_spreadsheet_is_named(self, root, name, caplog):
        (root / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(UserError, match=f"one class only.*{name}.*save it as CSV"):
            find(root)
        with pytest.raises(UserError, match=f"{name} is a spreadsheet"):
            find(root / name)
        with pytest.raises(UserError, match=f"{name} is a spreadsheet"):
            find(root, columns={"label": "finding"})
        save(root / "other" / "a.png", texture(9))
        assert find(root).classes == ("img", "other") and name in caplog.text


class TestOthers:
    """Tables of the other apps."""

    def test_boundaries(self, tmp_path):
        def points(content):
            (tmp_path / "b.csv").write_text(content)
            return _points.read_table(tmp_path / "b.csv")

        li, ma = points("sep=;\ninterface;x;y\nLI;101,250;0,5\nma;1,500;2,125\n")
        np.testing.assert_array_equal((li, ma), [[[101.25, 0.5]], [[1.5, 2.125]]])
        for content, said in (
            ("interface;x;y\nli;101,250;7\n", "row 2 of its table may be a number of thousands"),
            ("interface,x,y\nli,1,5,7\n", "row 2 of its table has 4 fields"),
            ("interface,x,y\nli,1,2\nma,3\n", "row 3 of its table has 2 fields"),
            ("interface,x,x,y\nli,1,2,3\n", "columns 2 and 3 one name"),
            ("interface,x,y\nli,1,nan\n", "row 2 of its table is no number"),
        ):
            with pytest.raises(Unusable, match=said) as caught:
                points(content)
            assert "b.csv" not in str(caught.value)
        for text in ("1 nan\n2 3\n4 5\n", "1 0x1\n2 3\n4 5\n", "1_0 2\n3 4\n5 6\n"):
            (tmp_path / "a.txt").write_text(text)
            with pytest.raises(Unusable, match="interface file"):
                _points.read_text(tmp_path / "a.txt")

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (["a.png,a.csv,P1,0.06", "b.png,b.csv,p1,0.06"], "'P1' and 'p1'.*row 2.*row 3"),
            (["a.png,a.csv,nan,0.06"], "row 2, column subject 'nan'"),
            (["a.png,a.csv,P1,0,06"], "row 2 has 5 fields"),
            (["a.png,a.csv,P1"], "row 2 has 3 fields"),
        ],
    )
    def test_studies(self, tmp_path, rows, said):
        synthetic.write_csv(tmp_path, "a")
        table = tmp_path / "studies.csv"
        table.write_text("\n".join(["image,boundaries,subject,mm_per_pixel", *rows]))
        with pytest.raises(UserError, match=said):
            boundary_csv.detect(tmp_path)
        table.rename(tmp_path / "studies.xlsx")
        with pytest.raises(UserError, match=r"studies\.xlsx is a spreadsheet.*as studies\.csv"):
            boundary_csv.detect(tmp_path)

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (["i0.png,m0.png,A,1"], "frames.csv, row 2 has 4 fields"),
            (["i0.png,nan,A"], "row 2, column mask 'nan'"),
            (["i0.png,None,A"], "row 2, column mask 'None'.*write none"),
            (["i0.png,,nan"], "row 2, column case 'nan'"),
            (["i0.png,,A", "i1.png,,a"], "'A' and 'a' differ"),
            (["i0.png,,1", "i1.png,,1.0"], "'1' and '1.0' differ"),
            (["i0.png,m0.png,A", "i0.png,none,A"], "row 3 names i0.png, as .*row 2"),
        ],
    )
    def test_frames(self, tmp_path, rows, said):
        write_image(tmp_path / "i0.png", pattern(0))
        write_image(tmp_path / "m0.png", disc())
        (tmp_path / "frames.csv").write_text("\n".join(["image,mask,case", *rows]))
        with pytest.raises(UserError, match=said):
            _colonoscopy.find(tmp_path)

    @pytest.mark.parametrize(
        ("label", "value"),
        [
            ("1.0", 1), ("0.0", 0), ("TRUE", 1), ("no", 0), ("non-informative", 0),
            ("Not informative", 0), ("INFORMATIVE", 1), ("-1", None), ("1?", None), ("nan", None),
            ("-", None), ("10", None), ("2", None), ("1e0", None),
        ],
    )  # fmt: skip
    def test_labels_of_frames(self, tmp_path, label, value):
        write_image(tmp_path / "A" / "0.png", pattern(0))
        (tmp_path / "labels.csv").write_text(f"video,frame_index,label\nA,0,{label}\n")
        if value is None:
            with pytest.raises(UserError, match=r"labels\.csv, row 2, column label"):
                _colonoscopy.find(tmp_path)
        else:
            (source,) = _colonoscopy.find(tmp_path)
            assert [frame.label for frame in _colonoscopy.frames(source)] == [value]

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (["a,one", "a,two"], "row 3 gives a another subject"),
            (["a,one", "b,ONE"], "'one' and 'ONE' differ"),
            (["a,1", "b,1.0"], "'1' and '1.0' differ"),
            (["a,null"], "row 2, column subject 'null'"),
            (["a,x,y"], "row 2 has 3 fields"),
        ],
    )
    def test_subjects_of_volumes(self, tmp_path, rows, said):
        from tests.data_prep.readers import test_nifti

        test_nifti.write(tmp_path / "a.nii.gz")
        (tmp_path / "subjects.csv").write_text("\n".join(["case,subject", *rows]))
        with pytest.raises(UserError, match=said):
            _volumes.find(tmp_path)

    def test_points_of_volumes(self, tmp_path):
        from tests.data_prep.readers import test_nifti
        from tests.data_prep.readers.test_lesions import lesions

        test_nifti.write(tmp_path / "a.nii.gz")
        table = tmp_path / "a_points.csv"
        table.write_text("sep=;\nx;y;z;lesion\n1,5;2;3;left\n2;2;3;left\n5;5;3;right\n")
        assert lesions(tmp_path).count == 2
        for content, said in (
            ("x;y;z\n1;2\n", "row 2 of its table has 2 fields"),
            ("x,y,z,lesion\n1,2,3,1\n2,2,3,1.0\n", "row 3 of its table names a lesion otherwise"),
            ("x,y,z,lesion\n1,2,3,nan\n", "row 2 of its table may stand for a missing value"),
            ("x,y,x,z\n1,2,3,4\n", "columns 1 and 3 one name"),
        ):
            table.write_text(content)
            with pytest.raises(Unusable, match=said):
                lesions(tmp_path)
        table.unlink()
        (tmp_path / "a_points.xlsx").write_bytes(b"PK\x03\x04")
        with pytest.raises(Unusable, match="spreadsheet"):
            lesions(tmp_path)


@pytest.mark.parametrize("quoted", [False, True])
def test_one_wrong_character_changes_one_cell_or_is_refused(tmp_path, quoted):
    """No separator, quote or line end too many or too few moves or loses text in silence."""
    mark = '"' if quoted else ""
    cells = [("1.png", "pos", "p1"), ("2.png", "Mass, benign", "p2"), ("3.png", "neg", "p3")]
    lines = [[f'"{c}"' if "," in c else f"{mark}{c}{mark}" for c in row] for row in cells]
    whole = "\n".join([HEAD, *(",".join(line) for line in lines)]) + "\n"
    outcomes = []
    for place in range(len(whole) + 1):
        changed = [whole[:place] + whole[place + 1 :]]
        changed += [whole[:place] + extra + whole[place:] for extra in ',"\n;\t|\ufeff\x85']
        for content in changed:
            try:
                table = read(tmp_path, content).require("path", "label", "subject")
            except tables.TableError:
                outcomes.append("refused")
                continue
            found = [tuple(row.values()) for row in table.rows]
            assert len(found) == len(cells), content
            wrong = sum(
                a != b for one, other in zip(cells, found, strict=True)
                for a, b in zip(one, other, strict=True)
            )  # fmt: skip
            assert wrong <= 1, content
            outcomes.append("read")
    assert outcomes.count("refused") > 200 and outcomes.count("read") > 200
