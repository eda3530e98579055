import importlib
from pathlib import Path

import pytest

from crossknn.datasets.icd10cm import load_icd10cm, load_icd10cm_10k
from crossknn.datasets.splits import SPLITS, Dataset, LabelledQuery, hash_order, normalise, split_of

SHARES = {"ce_train": 0.5, "index_train": 0.2, "dev": 0.1, "test": 0.2}


def test_groups_fall_into_splits_by_their_share_and_always_alike() -> None:
    groups = [f"group-{n}" for n in range(4000)]
    found = [split_of(group, SHARES) for group in groups]
    assert found == [split_of(group, SHARES) for group in groups]
    for split, share in SHARES.items():
        assert found.count(split) / len(found) == pytest.approx(share, abs=0.03)


def test_the_order_of_queries_does_not_depend_on_the_order_they_came_in() -> None:
    queries = [LabelledQuery(f"query {n}", str(n)) for n in range(50)]
    assert hash_order(queries) == hash_order(reversed(queries)) != queries


@pytest.fixture(scope="module")
def data() -> Dataset:
    pytest.importorskip("simple_icd_10_cm")
    return load_icd10cm()


def test_nothing_that_is_held_out_enters_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "training")
    examples = importlib.import_module("examples")
    splits = {"a": "ce_train", "b": "test", "c": "ce_train", "d": "dev"}
    queries = {split: [LabelledQuery(f"what {i} is", i) for i in splits if splits[i] == split] for split in SPLITS}
    data = Dataset("some", {i: f"item {i}" for i in splits}, queries, splits)
    phrases = [*queries["ce_train"], LabelledQuery("What  B is", "a"), LabelledQuery("a note", "c")]
    held_out = {normalise(q.text) for split in examples.HELD_OUT for q in queries[split]}
    assert SPLITS[1:] == examples.HELD_OUT
    corpus = examples._corpus(data, phrases, data.items, held_out)
    assert corpus.items == ["item a", "item c"]
    assert corpus.queries == ["what a is", "what c is", "a note"]
    assert corpus.labels.tolist() == [0, 1, 1]
    assert corpus.n_real == 2


class TestICD10CM:
    """The splits as written down in docs/data.md; a new release of the package moves counts, and must be seen."""

    def test_counts_and_hashes(self, data: Dataset) -> None:
        summary = data.summary()
        assert summary["items"]["count"] == 46_881
        assert {split: (found["count"], found["sha256"][:12]) for split, found in summary["queries"].items()} == {
            "ce_train": (9637, "25fe4fcf72dd"),
            "index_train": (1086, "a3b28483e157"),
            "dev": (780, "6d99f36c2d95"),
            "test": (1066, "6155e800c7a7"),
        }
        assert summary["items"]["sha256"].startswith("85f5d1a7b45c")

    def test_a_category_stands_in_one_split_with_all_its_queries(self, data: Dataset) -> None:
        categories: dict[str, set[str]] = {}
        for item_id, split in data.item_splits.items():
            categories.setdefault(item_id[:3], set()).add(split)
        assert all(len(splits) == 1 for splits in categories.values())
        for split in SPLITS:
            assert all(data.item_splits[q.item_id] == split for q in data.queries[split])

    def test_the_subset_holds_every_label_but_no_item_of_ce_training(self, data: Dataset) -> None:
        subset = load_icd10cm_10k()
        assert len(subset.items) == 9670
        assert subset.summary()["items"]["sha256"].startswith("c40b5a6adf8b")
        assert not subset.queries["ce_train"]
        for split in ("index_train", "dev", "test"):
            assert subset.queries[split] == data.queries[split]
            assert all(q.item_id in subset.items for q in subset.queries[split])
