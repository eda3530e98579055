from pathlib import Path

import pytest

from crossknn.datasets.hpo import load_hpo
from crossknn.datasets.wordnet import load_wordnet
from crossknn.errors import MissingDataError

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


def test_wordnet_items_and_examples(tmp_path: Path) -> None:
    for name in ("data.verb", "data.adj", "data.adv"):
        (tmp_path / name).write_text("")
    with pytest.raises(MissingDataError, match=r"data\.noun"):
        load_wordnet(tmp_path)
    (tmp_path / "data.noun").write_text(NOUNS)
    data = load_wordnet(tmp_path)
    assert data.items == {"n00003553": "living thing, animate thing: a living entity"}
    assert [q.text for qs in data.queries.values() for q in qs] == ["living thing: a living thing breathes"]
