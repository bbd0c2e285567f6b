import collections
import hashlib
import hmac
import itertools
import os

import numpy as np
import pytest

from data_prep import splits
from data_prep.errors import UserError

SUBJECTS = [f"{number:012x}" for number in range(23)]


def hmac_by_hand(key: bytes, message: bytes) -> str:
    """RFC 2104 with SHA-256 (blocks of 64 bytes)."""
    key = hashlib.sha256(key).digest() if len(key) > 64 else key
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()


@pytest.mark.parametrize("key", [b"secret", b"k" * 64, b"long" * 50])
def test_pseudonym_is_the_head_of_an_hmac(key):
    found = splits.pseudonym("Müller^Anna", key)
    assert found == hmac_by_hand(key, "Müller^Anna".encode())[:12]
    assert found == hmac.new(key, "Müller^Anna".encode(), "sha256").hexdigest()[:12]


def test_a_name_that_is_not_utf8_counts_as_its_bytes():
    name = os.fsdecode(b"M\xfcller")
    assert splits.pseudonym(name, b"k") == hmac.new(b"k", b"M\xfcller", "sha256").hexdigest()[:12]


def test_pseudonyms_change_with_the_key():
    assert splits.pseudonym("a", b"1") != splits.pseudonym("a", b"2")


def test_secret_key_from_text_and_file(tmp_path):
    file = tmp_path / "key"
    file.write_bytes(b"from a file\n")
    assert splits.secret_key("plain text", seed=3) == b"plain text"
    assert splits.secret_key(f"@{file}", seed=3) == b"from a file"


def test_a_key_from_the_seed_is_announced(caplog):
    keys = {splits.secret_key(None, seed) for seed in (0, 1)}
    assert len(keys) == 2
    assert "--pseudonym_key=@FILE" in caplog.text


@pytest.mark.parametrize("text", ["", "@/no/such/file"])
def test_an_unusable_key_is_the_users_error(text):
    with pytest.raises(UserError, match="--pseudonym_key"):
        splits.secret_key(text, seed=0)


@pytest.mark.parametrize(
    ("test_fraction", "validation_fraction", "sizes"),
    [
        (0.5, 0.2, (9, 2, 12)),  # 23 / 2 = 11.5 -> 12; 11 / 5 = 2.2 -> 2
        (0.1, 0.1, (19, 2, 2)),
        (0.001, 0.001, (21, 1, 1)),  # at least one
        (0.0, 0.2, (18, 5, 0)),
        (0.3, 0.0, (16, 0, 7)),
        (1.0, 0.2, (0, 0, 23)),
    ],
)
def test_sizes_of_the_parts_are_exact(test_fraction, validation_fraction, sizes):
    parts = splits.assign(SUBJECTS, "seed", test_fraction, validation_fraction)
    assert set(parts) == set(SUBJECTS)
    counts = collections.Counter(parts.values())
    assert tuple(counts[part] for part in splits.PARTS) == sizes


def test_parts_depend_on_the_key_and_not_on_the_order():
    parts = splits.assign(SUBJECTS, "a", 0.5, 0.2)
    assert parts == splits.assign(SUBJECTS[::-1] + SUBJECTS[:3], "a", 0.5, 0.2)
    assert parts != splits.assign(SUBJECTS, "b", 0.5, 0.2)


@pytest.mark.parametrize("folds", [2, 5, 23])
def test_every_subject_is_test_exactly_once_over_the_folds(folds):
    tests, validations = [], []
    for fold in range(folds):
        parts = splits.assign(SUBJECTS, "a", 0.5, 0.2, folds, fold)
        assert set(parts) == set(SUBJECTS)
        assert "train" in parts.values()
        tests.append({subject for subject, part in parts.items() if part == "test"})
        validations.append(frozenset(s for s, part in parts.items() if part == "validation"))
    assert sorted(itertools.chain(*tests)) == sorted(SUBJECTS)
    assert max(map(len, tests)) - min(map(len, tests)) <= 1
    assert len(set(validations)) == folds  # not always the same ones


@pytest.mark.parametrize(
    ("count", "arguments"),
    [
        (0, (0.5, 0.2)),
        (1, (0.5, 0.2)),
        (2, (0.5, 0.2)),
        (2, (0.5, 0.9)),
        (4, (0.5, 0.2, 5, 0)),
        (2, (0.5, 0.2, 2, 0)),
    ],
)
def test_too_few_subjects(count, arguments):
    with pytest.raises(UserError, match="too few"):
        splits.assign(SUBJECTS[:count], "a", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [(1.5, 0.2), (0.5, 1.0), (-0.1, 0.2), (0.5, 0.2, 5), (0.5, 0.2, None, 1), (0.5, 0.2, 5, 5)],
)
def test_shares_and_folds_out_of_range(arguments):
    with pytest.raises(UserError, match=r"must be"):
        splits.assign(SUBJECTS, "a", *arguments)


def test_fractions_are_nested_and_never_empty():
    shares = [0.001, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0]
    sets = [splits.fraction(SUBJECTS, share, "a") for share in shares]
    assert all(small <= large for small, large in itertools.pairwise(sets))
    assert [len(chosen) for chosen in sets] == [1, 1, 2, 6, 12, 17, 23]
    assert splits.fraction(SUBJECTS, 0.5, "b") != sets[4]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1])
def test_fractions_out_of_range(share):
    with pytest.raises(UserError, match="--fraction"):
        splits.fraction(SUBJECTS, share, "a")


def test_subjects_in_two_parts_are_found():
    parts = {"train": "train", "validation": "validation", "validation_roi": "validation"}
    whole = {"train": ["a", "b"], "validation": ["c"], "validation_roi": ["c"]}
    splits.require_disjoint(whole, parts)
    with pytest.raises(UserError, match=r"'validation_roi' are also in the train part \(b\)"):
        splits.require_disjoint({**whole, "validation_roi": ["c", "b"]}, parts)


@pytest.mark.parametrize("folds", [None, 4])
@pytest.mark.parametrize("seed", range(5))
def test_parts_hold_their_share_of_every_stratum(folds, seed):
    rng = np.random.default_rng(seed)
    sizes = {"a": 40, "b": 23, "c": 8}
    strata = {f"{name}{i}": name for name, size in sizes.items() for i in range(size)}
    subjects = list(rng.permutation(list(strata)))
    fold = None if folds is None else seed % folds
    parts = splits.assign(subjects, str(seed), 0.25, 0.2, folds, fold, strata)
    for name, size in sizes.items():
        test, validation = (
            sum(part == which and strata[subject] == name for subject, part in parts.items())
            for which in ("test", "validation")
        )
        assert abs(test - size / 4) <= 1
        assert abs(validation - 0.2 * (size - test)) <= 1
    assert parts == splits.assign(sorted(subjects), str(seed), 0.25, 0.2, folds, fold, strata)


@pytest.mark.parametrize("seed", range(6))
def test_a_fraction_shows_all_that_is_shown(seed):
    rng = np.random.default_rng(seed)
    shown = {f"s{i}": {("a", "b", "c")[min(2, int(rng.exponential(0.6)))]} for i in range(30)}
    shown["s7"] |= {"rare"}
    smaller = None
    for share in (0.01, 0.1, 0.3, 1.0):
        kept = splits.fraction(shown, share, f"{seed}", shown=shown)
        assert set().union(*(shown[s] for s in kept)) == set().union(*shown.values())
        plain = splits.fraction(shown, share, f"{seed}")
        assert plain <= kept and len(kept) <= len(plain) + 3
        assert smaller is None or smaller <= kept
        smaller = kept
    assert len(splits.fraction(shown, 0.01, "x", least=2)) == 2
    assert splits.fraction(["one"], 0.01, "x", least=2) == {"one"}


def test_a_stratum_of_one_subject_is_learnt_from():
    strata = dict.fromkeys(SUBJECTS, "common") | {SUBJECTS[0]: "rare"}
    for seed in range(10):
        parts = splits.assign(SUBJECTS, str(seed), 0.25, 0.2, strata=strata)
        assert parts[SUBJECTS[0]] == "train"


def test_one_stratum_changes_nothing():
    one = dict.fromkeys(SUBJECTS, "all")
    for given in ((0.3, 0.2), (0.3, 0.2, 5, 2)):
        plain = splits.assign(SUBJECTS, "a", *given)
        assert splits.assign(SUBJECTS, "a", *given, strata=one) == plain
