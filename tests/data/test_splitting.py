"""Splits that hold: whole, without leaks, stratified, nested, and the same every time."""

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from helpers.corpora import counts, hashes, rows_of, texts_by_split
from nlptransfer.data.copies import folded
from nlptransfer.data.dataset import DataSettings, folds_of, load_data
from nlptransfer.data.labels import Labels
from nlptransfer.data.splitting import units_of
from nlptransfer.errors import DataError, SettingError


@st.composite
def tables(draw):
    """Enough distinct texts of every label, and some texts that repeat, with the same label or another."""
    sizes = draw(st.lists(st.integers(3, 40), min_size=2, max_size=4))
    texts, labels = rows_of({f"label {number}": size for number, size in enumerate(sizes)})
    again = draw(st.lists(st.tuples(st.integers(0, len(texts) - 1), st.integers(0, len(sizes) - 1)), max_size=15))
    pairs = [*zip(texts, labels, strict=True), *((texts[row], f"label {label}") for row, label in again)]
    pairs = draw(st.permutations(pairs))
    return [text for text, _ in pairs], [label for _, label in pairs]


def check_partition(data, table):
    """All rows are there, identical texts on one side, and every label in train, validation and test."""
    found = [
        row
        for split in data.splits.values()
        for row in zip(split.texts, data.labels.decode(split.targets), strict=True)
    ]
    assert sorted(found) == sorted(zip(*table, strict=True))
    sides = texts_by_split(data)
    assert sum(map(len, sides)) == len(set().union(*sides))
    for split in (data.train, data.validation, data.test):
        assert set(counts(split, data)) == set(data.labels.names)


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 5))
def test_splits_are_a_partition(table, seed):
    check_partition(load_data(table, DataSettings(split_seed=seed, calibration_size=0.2)), table)


@settings(max_examples=60, deadline=None)
@example([33, 34, 52], 0.3984375, 0.375, 0.3984375, 0)  # what each of three carves rounds must not add up
@given(st.lists(st.integers(3, 60), min_size=2, max_size=5), *[st.floats(0.05, 0.4)] * 3, st.integers(0, 3))
def test_every_label_has_its_share_within_one_row(sizes, test, validation, calibration, seed):
    table = rows_of({str(number): size for number, size in enumerate(sizes)})
    data = load_data(
        table, DataSettings(split_seed=seed, test_size=test, validation_size=validation, calibration_size=calibration)
    )
    for name, size in enumerate(sizes):
        in_test = counts(data.test, data)[str(name)]
        assert abs(in_test - test * size) <= 1
        assert abs(counts(data.validation, data)[str(name)] - validation * (size - in_test)) <= 1
        if len(data.calibration):
            left = size - in_test - counts(data.validation, data)[str(name)]
            # The row that train must keep may be one that calibration asked for.
            wanted = min(calibration * (size - in_test), left - 1)
            assert abs(counts(data.calibration, data)[str(name)] - wanted) <= 1


def test_repeated_texts_cost_at_most_one_group():
    texts, labels = rows_of({"a": 200, "b": 200})
    data = load_data((texts + texts[:100] * 4, labels + labels[:100] * 4))
    for name, size in (("a", 600), ("b", 200)):
        assert abs(counts(data.test, data)[name] - 0.2 * size) <= 5


def test_texts_with_two_labels_are_not_gathered_in_one_split():
    texts, labels = rows_of({"a": 400, "b": 400})
    both = texts[:200]
    data = load_data((texts + both, labels + ["b"] * 200), DataSettings(calibration_size=0))
    assert 20 <= len(set(data.test.texts) & set(both)) <= 60


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_has_no_say(random):
    rows = list(zip(*rows_of({"a": 40, "b": 25}), strict=True))
    before = texts_by_split(load_data(tuple(zip(*rows, strict=True))))
    random.shuffle(rows)
    assert texts_by_split(load_data(tuple(zip(*rows, strict=True)))) == before


def test_the_split_seed_alone_decides():
    table = rows_of({"a": 300, "b": 300})
    assert hashes(load_data(table)) == hashes(load_data(table))
    assert texts_by_split(load_data(table)) != texts_by_split(load_data(table, DataSettings(split_seed=1)))
    assert load_data(table).test.texts == load_data(table, DataSettings(calibration_size=0)).test.texts


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(0, 3), st.integers(0, 3), st.sampled_from([None, 20, 40]))
def test_another_rows_seed_moves_all_but_test(table, seed, rows_seed, most):
    chosen = {"split_seed": seed, "test_size": 0.3, "calibration_size": 0.2, "max_train_rows": most}
    before, after = (load_data(table, DataSettings(**chosen, rows_seed=other)) for other in (None, rows_seed))
    assert after.test.fingerprint() == before.test.fingerprint()
    assert not set(after.test.texts) & set().union(*texts_by_split(after)[:3])
    assert sum(map(len, texts_by_split(after))) == len(set().union(*texts_by_split(after)))
    pools = [sum(len(split) for split in (data.train, data.validation, data.calibration)) for data in (before, after)]
    assert max(pools) <= (most or len(table[0]))
    if most is None:
        assert pools[0] == pools[1]
    if seed == rows_seed:
        assert hashes(after) == hashes(before)
    for split in (after.train, after.validation):
        assert set(counts(split, after)) == set(after.labels.names)


def test_splits_are_the_same_on_every_machine():
    data = load_data(rows_of({"a": 15, "b": 15}))
    assert data.validation.texts == ["text 12 of a", "text 0 of b"]
    digest = "2f52858143c0b245bb17a1805157ad098eaffc536cfb01def33d2a0b573bbd8f"
    assert data.validation.fingerprint() == {"rows": 2, "hash": digest}
    other = load_data(rows_of({"a": 15, "b": 15}), DataSettings(rows_seed=1))
    assert other.validation.texts == ["text 7 of a", "text 6 of b"]


# What stays on one side


def grouped_table(seed, several):
    """Texts of three labels, some alike but for case, blanks and signs; and of whom they are, where that is known."""
    draw, count = np.random.default_rng(seed), 60 + seed % 50
    shapes = draw.choice(["TEXT {}", " text {}! ", "(Text {})", "text\u00a0{}..."], count)
    texts = [shape.format(number) for shape, number in zip(shapes, draw.integers(count, size=count), strict=True)]
    labels = [["abc"[number], "d"][: 1 + several * number] for number in draw.integers(3, size=count)]
    owners = [owner or None for owner in draw.integers(30, size=count).tolist()]
    labels = labels if several else [label for (label,) in labels]
    return {"text": texts, "label": labels, "owner": owners, "weight": [1.0] * count}


@pytest.mark.parametrize("column", [None, "owner"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), several=st.booleans(), random=st.randoms(use_true_random=False))
def test_what_belongs_together_is_on_one_side(column, seed, several, random):
    table = grouped_table(seed, several)
    chosen = {"split_seed": seed, "calibration_size": 0.2, "group_column": column, "weight_column": "weight"}
    keys = [folded(text) for text in table["text"]]
    if column is not None:
        keys = [text if owner is None else owner for text, owner in zip(keys, table["owner"], strict=True)]
    rows = random.sample(range(len(keys)), len(keys))
    permuted = {name: [values[row] for row in rows] for name, values in table.items()}
    loaded, again = load_data(table, DataSettings(**chosen)), load_data(permuted, DataSettings(**chosen))
    sides = {name: {*(split.numbers - 1).tolist()} for name, split in loaded.splits.items()}
    assert sorted(row for side in sides.values() for row in side) == [*range(len(keys))]
    groups = [{keys[row] for row in side} for side in sides.values()]
    assert sum(map(len, groups)) == len({*keys})
    assert {name: {rows[row - 1] for row in split.numbers} for name, split in again.splits.items()} == sides
    # Fewer rows, and folds, part no group either; and fewer rows are a part of more.
    pools = []
    for most in (45, 55):
        few = load_data(table, DataSettings(**chosen, max_train_rows=most))
        parts = [few.train, few.validation, few.calibration]
        held = [{keys[row] for row in split.numbers - 1} for split in parts]
        assert sum(map(len, held)) == len(set().union(*held)) and sum(map(len, parts)) <= most
        pools.append(set().union(*({*split.numbers} for split in parts)))
    assert pools[0] <= pools[1]
    for fold in folds_of(loaded, 3):
        assert not {keys[row] for row in fold.train.numbers - 1} & {keys[row] for row in fold.validation.numbers - 1}


def test_groups_are_in_the_order_of_their_smallest_texts():
    texts, loud = [f"text {number}" for number in range(50)], "TEXT 7"

    def firsts(*rows: str) -> list[str]:
        units = units_of(rows, np.zeros(len(rows), np.int64), 3)
        return [rows[row] for row in units.rows[np.cumsum(units.sizes) - units.sizes]]

    assert firsts(*texts, "text 7!") == firsts("text 7!", *texts) == firsts(*texts)
    assert firsts(*texts, loud) == firsts(*texts[:7], loud, *texts[8:])
    assert firsts(*texts, loud).index(loud) != firsts(*texts).index("text 7")


def test_near_copies_are_on_one_side():
    draw = np.random.default_rng(0)
    words = [f"w{number}{chr(97 + number % 26)}" for number in range(400)]
    texts = [" ".join(draw.choice(words, 30)) for _ in range(120)]
    copies = [f"{text} indeed, she said" for text in texts[:60]]
    table, chosen = (texts + copies, ["a", "b"] * 90), {"calibration_size": 0.2}
    twin = {text: text[: -len(" indeed, she said")] for text in copies}
    for by, are_split in (("copies", False), ("text", True)):
        data = load_data(table, split_by=by, **chosen)
        assert sum(map(len, data.splits.values())) == 180
        originals = [{twin.get(text, text) for text in split.texts} for split in data.splits.values()]
        assert (sum(map(len, originals)) > 120) == are_split
        folds = [{twin.get(text, text) for text in fold.validation.texts} for fold in folds_of(data, 4)]
        assert (sum(map(len, folds)) > len(set().union(*folds))) == are_split


def test_shares_hold_as_far_as_groups_allow():
    ours, theirs = [], []
    for seed in range(8):
        draw = np.random.default_rng(seed)
        # A few owners have most of the rows, and each prefers some of the labels.
        sizes = draw.lognormal(0, 1.5, 200)
        owners, tastes = draw.choice(200, 2000, p=sizes / sizes.sum()), draw.dirichlet([4, 2, 1], 200).cumsum(axis=1)
        labels = (draw.random((2000, 1)) > tastes[owners]).sum(axis=1)
        texts, every = [f"text {row}" for row in range(2000)], np.bincount(labels, minlength=3)
        data = load_data({"text": texts, "label": labels, "owner": owners}, group_column="owner", split_seed=seed)
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(texts, labels, owners)
        for off, test in ((ours, data.test.targets), (theirs, labels[next(folds)[1]])):
            off += [*np.abs(np.bincount(test, minlength=3) / every - 0.2), abs(len(test) / 2000 - 0.2)]
        validation = np.bincount(data.validation.targets, minlength=3) / every
        assert np.abs(validation - 0.08).max() < 0.05
    assert np.mean(ours) < np.mean(theirs) / 2


@pytest.mark.parametrize(
    ("columns", "chosen", "message"),
    [
        ({}, {"group_column": "shop"}, r"expected the column 'shop' \(group_column\), found only 'text', 'label'; set"),
        ({"owner": [1, 2] * 30}, {"group_column": "text"}, "expected a column of its own .group_column., found"),
        ({"owner": [1, 2] * 30}, {"group_column": "label"}, "found 'label', which is read as text or label; name anot"),
        (
            {"owner": [1, 2] * 30},
            {"group_column": "owner"},
            "expected 3 values of 'owner' or more of a label, one",
        ),
        (
            {"owner": [None, ""] * 30},
            {"group_column": "owner"},
            "column 'owner' .group_column.: expected values, fou",
        ),
        (
            {"owner": [*range(6)] * 10},
            {"group_column": "owner", "max_train_rows": 10, "test_size": 0},
            "leaves 10 rows to train on: expected 20 or more, to keep 2 values of 'owner' of each of the 2 labels",
        ),
    ],
)
def test_groups_that_cannot_be_split(columns, chosen, message):
    texts, labels = rows_of({"a": 30, "b": 30})
    with pytest.raises(DataError, match=message):
        load_data({"text": texts, "label": labels, **columns}, **chosen)


def test_one_thing_says_what_stays_on_one_side():
    with pytest.raises(SettingError, match="split_by='copies': expected none beside group_column"):
        DataSettings(split_by="copies", group_column="owner")
    with pytest.raises(SettingError, match="split_by='topic': expected one of 'text', 'copies'"):
        DataSettings(split_by="topic")


def test_values_of_a_group_are_the_same_however_they_are_written():
    texts, labels = rows_of({"a": 30, "b": 30})
    owners = [("1", 1.0, "1.0", " 1 ", 1)[row % 5] if row < 20 else f"o{row}" for row in range(60)]
    data = load_data({"text": texts, "label": labels, "owner": owners}, group_column="owner")
    assert len({split for split, rows in data.splits.items() for row in rows.numbers if row <= 20}) == 1
    # A split of the source's own may lack the column; where it has it, its rows are in the folds of their owner.
    held_out = {"text": ["v", "w"], "label": ["a", "b"]}
    for validation in (held_out, held_out | {"owner": ["o30", None]}):
        train = {"text": texts, "label": labels, "owner": owners}
        source = {"train": train, "validation": validation, "test": held_out}
        data = load_data(source, group_column="owner", calibration_size=0)
        held = [fold.validation.texts for seed in range(4) for fold in folds_of(data, 5, seed)]
        assert all(texts[30] in fold for fold in held if "v" in fold) == ("owner" in validation)


def cases():
    """Data with repeated texts, conflicting labels, one label a row and several, and settings of every kind."""
    for case in range(60):
        random = np.random.default_rng(case)
        rows, k, several = int(random.integers(60, 200)), int(random.integers(2, 7)), case % 2
        texts = [f"text {number}" for number in random.integers(0, rows * (1 + case % 3), rows)]
        labels = [str(label) for label in random.integers(0, k, rows)]
        if several:
            labels = [[str(label) for label in np.flatnonzero(row)] for row in random.random((rows, k)) < 0.3]
        source = {"train": (texts, labels)}
        if case % 5 == 0:
            source["validation"] = ([f"other {row}" for row in range(30)], labels[:30])
        yield (
            source,
            DataSettings(
                split_seed=case % 4,
                test_size=(0.2, 0, 0.35)[case % 3],
                validation_size=(0.1, 0.3)[case % 2],
                calibration_size=(0.05, 0.2, 0)[case // 2 % 3],
                max_train_rows=None if case % 4 else 40,
                rows_seed=None if case % 7 else 5,
            ),
        )


def test_splits_of_all_kinds_stay_what_they_were():
    digest = hashlib.sha256()
    for source, chosen in cases():
        digest.update(repr(sorted(hashes(load_data(source, chosen)).items())).encode())
    assert digest.hexdigest() == "aeddc774bbb7b2ff28810fb5b2035435f30cb69ebe976b2f5449c5812fc404e3"


@pytest.mark.parametrize("carved", [True, False])
def test_fewer_training_rows_are_part_of_more(carved):
    train = rows_of({"a": 500, "b": 100, "c": 8})
    dev = [f"dev {text}" for text in train[0]], train[1]
    source = train if carved else {"train": train, "dev": dev, "test": rows_of({"b": 1})}
    pools = []
    for most in (6, 10, 60, 300, 100_000):
        data = load_data(source, DataSettings(max_train_rows=most))
        pool = [data.train, data.calibration, data.validation]
        pools.append(set().union(*(split.texts for split in pool)))
        assert len(pools[-1]) == min(most, 608 - len(data.test) if carved else 2 * 608)
        assert set(counts(data.train, data)) == {"a", "b", "c"}
        total = sum((counts(split, data) for split in pool), Counter())
        if 60 <= most <= 300:
            assert abs(total["a"] - most * 500 / 608) <= 2 and abs(total["b"] - most * 100 / 608) <= 2
    assert all(fewer < more for fewer, more in pairwise(pools))


def test_training_rows_of_multi_label_data_are_nested_too():
    random = np.random.default_rng(0)
    rows = [[name for name, share in zip("abcde", (0.5, 0.3, 0.1, 0.02, 0.6), strict=True) if random.random() < share]
            for _ in range(1500)]  # fmt: skip
    table = ([f"text {row}" for row in range(1500)], rows)
    pools = []
    for most in (50, 400):
        data = load_data(table, DataSettings(max_train_rows=most))
        pools.append(set(data.train.texts + data.validation.texts + data.calibration.texts))
        assert len(pools[-1]) == most and set(counts(data.train, data)) == set("abcde")
    assert pools[0] < pools[1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcd")), max_size=60), st.integers(0, 3))
def test_multi_label_splits_are_a_partition(rows, seed):
    rows = [*rows, *({name} for name in "abcd" for _ in range(3))]
    texts = [f"text {row // 2 if row % 5 == 0 else row}" for row in range(len(rows) - 12)]
    texts += [f"alone {row}" for row in range(12)]
    table = texts, [sorted(row) for row in rows]
    check_partition(load_data(table, DataSettings(split_seed=seed)), table)


def test_multi_label_from_strings_and_empty_sets(tmp_path):
    lines = [f"text {row},{'a|b' if row % 3 == 0 else 'b' if row % 3 == 1 else '|'}" for row in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["text,tags", *lines]))
    data = load_data(tmp_path / "a.csv", DataSettings(label_delimiter="|"))
    assert data.labels == Labels(("a", "b"), multi_label=True)
    assert sum(len(split) for split in data.splits.values()) == 60
    assert sum(int((split.targets.sum(axis=1) == 0).sum()) for split in data.splits.values()) == 20
    assert "multi-label, 2 labels" in repr(data)


def test_rare_labels_are_moved_to_where_they_are_needed():
    # Both rows of "r" carry "x" too, whose dealing alone would put them on one side.
    rows = [["x"]] * 60 + [["y"]] * 40 + [["x", "r"], ["x", "y", "r"], ["r", "y"]]
    data = load_data(([f"text {row}" for row in range(len(rows))], rows))
    assert all(counts(split, data)["r"] == 1 for split in (data.train, data.validation, data.test))


def loaded(rows, caplog, **settings):
    """Data of distinct texts with these labels, and what was warned of."""
    caplog.clear()
    data = load_data(([f"text {row}" for row in range(len(rows))], rows), DataSettings(**settings))
    return data, [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("several", [False, True])
def test_labels_with_fewer_texts_than_splits_stay_in_train(several, caplog):
    names = ["x"] * 60 + ["y"] * 40 + ["one"] + ["two"] * 2
    data, said = loaded([[name] for name in names] if several else names, caplog)
    assert set(data.labels.names) == {"one", "two", "x", "y"}
    assert [counts(data.train, data)[name] for name in ("one", "two")] == [1, 2]
    assert set(counts(data.test, data)) == set(counts(data.validation, data)) == {"x", "y"}
    assert (counts(data.test, data)["x"], counts(data.test, data)["y"]) == (12, 8)
    assert said == [
        "data: no row of validation and test judges 2 of 4 labels (training rows): 'one' (1), 'two' (2); "
        "their scores there are null, and macro means leave them out: add rows of them, or merge labels by "
        "label_mapping"
    ]


def test_rows_of_rare_labels_count_among_the_training_rows():
    names = ["x"] * 300 + ["y"] * 200 + [f"rare {row}" for row in range(10)]
    data = load_data(([f"text {row}" for row in range(510)], names), DataSettings(max_train_rows=50, rows_seed=3))
    assert len(data.train) + len(data.validation) + len(data.calibration) == 50
    assert set(counts(data.train, data)) == set(names) and set(counts(data.validation, data)) == {"x", "y"}


def test_a_text_is_where_its_other_labels_leave_room_for_it(caplog):
    # "r", "s" and "t" are in two texts each, but every split of the three leaves one of them out of train.
    rows = [["r", "s"], ["r", "t"], ["s", "t"]] + [["u"]] * 30
    data, said = loaded(rows, caplog, test_size=0)
    assert set(counts(data.train, data)) == {*"rstu"} and "u" in counts(data.validation, data)
    assert len(said) == 1 and "of validation judges" in said[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=4), min_size=10, max_size=60), st.integers(0, 3))
def test_every_label_is_learnt_however_rare(rows, seed):
    rows = [*rows, *({"common"} for _ in range(10))]
    texts = [f"text {row // 2 if row % 5 == 0 else row}" for row in range(len(rows))]
    data = load_data((texts, [sorted(row) for row in rows]), DataSettings(split_seed=seed))
    assert set(counts(data.train, data)) == set(data.labels.names) == set().union(*rows)
    assert len(data.validation) and len(data.test)
    sides = texts_by_split(data)
    assert sum(map(len, sides)) == len(set(texts))


def test_thousands_of_labels_of_few_rows_are_each_in_every_split():
    labels = 5_000
    data = load_data(([f"text {row}" for row in range(4 * labels)], [str(row % labels) for row in range(4 * labels)]))
    assert set(counts(data.test, data).values()) == {1} and len(data.test) == labels == data.labels.num_labels


def test_a_label_of_two_rows_is_enough_where_only_validation_is_carved():
    train, test = rows_of({"a": 300, "b": 300, "rare": 2}), rows_of({"a": 1})
    data = load_data({"train": train, "test": test})
    assert counts(data.train, data)["rare"] == counts(data.validation, data)["rare"] == 1
    assert counts(data.calibration, data)["rare"] == 0 and len(data.calibration) > 20
