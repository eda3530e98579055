"""Puts the figures of `crossknn benchmark` into the README and the pages of results, between their markers.

The sentences there are by hand.

    python benchmarks/results_page.py [MARKER...]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
POINTS = ((1, 10), (1, 100), (10, 100), (10, 200), (100, 200), (100, 500))


def systems_table(report: dict[str, Any], methods: list[str] | None = None) -> str:
    """Recall at the headline points, what the index cost, and the task, one row a system; all unless given."""
    cells = {(c["method"], c["budget"]): c for c in report["cells"]}
    head = ["system", "offline calls per item", "indexing", *(f"{k}@{m}" for k, m in POINTS), "accuracy@100"]
    rows = []
    for method in methods or dict.fromkeys(c["method"] for c in report["cells"]):
        cost = report["offline"][method]
        calls = cost["calls"] / report["n_items"]
        beside = cost["embed_seconds"] + cost["train_seconds"] + cost["reembed_seconds"]
        seconds = beside + scoring_seconds(report, cost)
        recall = [f"{100 * cells[method, m]['recall'][str(k)]['mean']:.1f}" for k, m in POINTS]
        accuracy = f"{100 * cells[method, 100]['task']['accuracy']['mean']:.1f}"
        rows.append([f"`{method}`", f"{calls:.3g}", f"{seconds:,.0f} s", *recall, accuracy])
    return table(head, rows)


def gains_table(report: dict[str, Any], methods: list[str]) -> str:
    """Gain over the baseline with its interval at every k and budget."""
    cells = {(c["method"], c["budget"]): c for c in report["cells"]}
    budgets = sorted({c["budget"] for c in report["cells"]})
    keys = [(k, m) for k in (1, 10, 100) for m in budgets if k <= m]
    rows = []
    for k, m in keys:
        row = [f"{k}@{m}"]
        for method in methods:
            gain = cells[method, m]["gain"][str(k)]
            row.append(f"{100 * gain['mean']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})")
        rows.append(row)
    return table(["k@m", *(f"`{method}`" for method in methods)], rows)


def scoring_seconds(report: dict[str, Any], cost: dict[str, Any]) -> float:
    """Of the calls but those that read an item, which are timed as embedding; older reports do not tell them apart."""
    return float((cost["calls"] - cost.get("items_read", 0)) / report["calls_per_second"])


def offline_table(report: dict[str, Any], methods: list[str]) -> str:
    """Indexing time by part."""
    rows = []
    for method in methods:
        cost = report["offline"][method]
        parts = [cost["embed_seconds"], scoring_seconds(report, cost), cost["train_seconds"], cost["reembed_seconds"]]
        rows.append([f"`{method}`", *(f"{part:,.1f}" for part in parts), f"{sum(parts):,.1f}"])
    return table(["system", "embedding", "scoring", "training", "embedding again", "seconds in all"], rows)


def recall_table(report: dict[str, Any], methods: list[str] | None = None) -> str:
    """Recall at the headline points alone, with its mean over them."""
    cells = {(c["method"], c["budget"]): c for c in report["cells"]}
    rows = []
    for method in methods or dict.fromkeys(c["method"] for c in report["cells"]):
        recall = [100 * cells[method, m]["recall"][str(k)]["mean"] for k, m in POINTS]
        rows.append([f"`{method}`", *(f"{value:.1f}" for value in recall), f"{sum(recall) / len(recall):.1f}"])
    return table(["system", *(f"{k}@{m}" for k, m in POINTS), "mean"], rows)


def of_own_vectors(method: str, other: str) -> bool:
    """Whether a search is compared with reranking by the same vectors."""
    same = other.partition(":")[2] == method.partition(":")[2]
    return other.startswith("rerank") and not method.startswith("rerank") and same


def pairs_table(report: dict[str, Any], *, own: bool, error: bool = False) -> str:
    """Systems against reranking by the same vectors (`own`), or against each other; gain in points, or less error."""
    found = {(p["method"], p["other"], p["budget"]): p for p in report["pairs"]}
    rows = []
    for method, other in dict.fromkeys((p["method"], p["other"]) for p in report["pairs"]):
        if of_own_vectors(method, other) != own or (own and beyond_the_paper(method)):
            continue
        row = [f"`{method}`", f"`{other}`"]
        for k, m in POINTS:
            value = found[method, other, m]["error_reduction" if error else "gain"][str(k)]
            if value is None:  # the other makes no error
                row.append("")
                continue
            sign = "" if error else "+"
            shown = [format(100 * value[part], f"{sign}.{0 if error else 1}f") for part in ("mean", "low", "high")]
            row.append(f"{shown[0]} ({shown[1]} to {shown[2]})")
        rows.append(row)
    return table(["system", "against", *(f"{k}@{m}" for k, m in POINTS)], rows)


def below_table(report: dict[str, Any]) -> str:
    """Every (k, m) at which a system finds less than reranking by the same vectors."""
    found: dict[tuple[str, str], list[str]] = {}
    for pair in report["pairs"]:
        method, other = pair["method"], pair["other"]
        if of_own_vectors(method, other) and "axn" in method and not beyond_the_paper(method):
            points = found.setdefault((method, other), [])
            for k, gain in pair["gain"].items():
                if gain["mean"] < -1e-9:
                    mean, low, high = (f"{100 * gain[part]:+.1f}" for part in ("mean", "low", "high"))
                    points.append(f"{k}@{pair['budget']} {mean} ({low} to {high})")
    return table(
        ["system", "below reranking at"],
        [[f"`{method}`", "; ".join(points) or "none"] for (method, _), points in found.items()],
    ).replace("---:", "---")


def beyond_the_paper(method: str) -> bool:
    """Whether a system is a rival's or ours."""
    return method == "gar" or any(part in method for part in ("bayes", "mf-side", "refined", "hybrid"))


def rounds_table(report: dict[str, Any], methods: dict[str, int]) -> str:
    """Recall and time per query beside the CE calls, by rounds."""
    cells = {(c["method"], c["budget"]): c for c in report["cells"]}
    rows = []
    for method, rounds in methods.items():
        cell = cells[method, 500]
        seconds = cell["seconds"]
        parts = [f"{1000 * seconds[part]:.1f}" for part in ("first_stage", "fit", "retrieve")]
        recall = [
            f"{100 * cells[method, m]['recall'][str(k)]['mean']:.1f}" for k, m in ((1, 100), (10, 100), (100, 500))
        ]
        calls = f"{1000 * 500 / report['calls_per_second']:,.0f}"
        rows.append([f"`{method}`", str(rounds), *recall, *parts, calls])
    head = ["system", "R", "1@100", "10@100", "100@500", "first stage, ms", "fit, ms", "retrieve, ms", "500 calls, ms"]
    return table(head, rows)


def stopping_table(measured: dict[str, Any], *, calibrated: bool = False) -> str:
    """What a target of 95% leads to, and how near the expected recall is to the true one at a fixed budget."""
    rows = []
    for system, at in measured["systems"].items():
        at = at.get("calibrated") if calibrated else at
        if at is None:
            continue
        for k in (1, 10, 100):
            (row,) = (r for r in at["stopping"] if r["k"] == k and r["target"] == 0.95)
            low, high = row["calls_saved_95"]
            saved = f"{100 * row['calls_saved']:.0f}% ({100 * low:.0f} to {100 * high:.0f})"
            fixed = {r["budget"]: r for r in at["fixed"] if r["k"] == k}
            told = [
                f"{100 * fixed[m]['recall']:.0f} / {100 * fixed[m]['expected']:.0f}" if m in fixed else ""
                for m in (100, 200, 500)
            ]
            rank, most = fixed[100]["spearman"], fixed[100]["spearman_at_most"]
            # calibrated, many queries are expected to have the same, and a rank that ties can correlate more
            rank = "" if rank is None else f"{rank:.2f}" if calibrated else f"{rank:.2f} of {most:.2f}"
            found = [f"{row['calls']:.0f}", f"{100 * row['recall']:.1f}", f"{100 * row['expected']:.1f}", saved]
            found.append(f"{100 * row['calls_saved_at_most']:.0f}%")
            (high_target,) = (r for r in at["stopping"] if r["k"] == k and r["target"] == 0.98)
            found.append(f"{100 * high_target['calls_saved']:.0f}%")
            rows.append([f"`{system}`", str(k), *found, *told, rank])
    head = [
        "system",
        "k",
        "calls",
        "recall",
        "expected",
        "calls saved",
        "at most",
        "saved at 98%",
        "at 100",
        "at 200",
        "at 500",
        "Spearman at 100",
    ]
    return table(head, rows)


def ablations_table(measured: dict[str, Any]) -> str:
    """What is lost without a part, in points."""
    points = list(measured["rows"][0]["at"])
    rows = []
    for row in measured["rows"]:
        if row["answered"] == "all":
            lost = [row["at"][point]["lost"] for point in points]
            shown = [
                f"{0 - 100 * x['mean']:+.1f} ({0 - 100 * x['high']:+.1f} to {0 - 100 * x['low']:+.1f})" for x in lost
            ]
            recall = [f"{100 * row['at'][point]['recall']:.1f}" for point in points]
            rows.append([row["system"], *(recall if row["system"] == "whole" else shown)])
    return table(["", *points], rows)


def answered_table(measured: dict[str, Any]) -> str:
    """Our best and the paper's, on queries that the cross-encoder answers right under brute force, and on others."""
    points = list(measured["rows"][0]["at"])
    ours = f"`bayes:mf-side-refined@{measured['calls']:g}x{measured['train_queries']}`"
    rows = []
    for row in measured["rows"]:
        if row["answered"] != "all" and row["system"] in ("whole", "axn-paper-r10-m0.8"):
            recall = [f"{100 * row['at'][point]['recall']:.1f}" for point in points]
            less = [row["at"][point]["less_error_than_it"] for point in points]
            shares = ["" if x is None else f" ({100 * x['mean']:.0f}%)" for x in less]
            whole = row["system"] == "whole"
            name = ours if whole else f"`{row['system']}:mf@10` (our error less by)"
            cells = recall if whole else [value + share for value, share in zip(recall, shares, strict=True)]
            rows.append([f"{name}, {row['answered']}", str(row["queries"]), *cells])
    return table(["system, brute force is", "queries", *points], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, aligned, *rows))


def read(name: str) -> dict[str, Any]:
    """A stored JSON."""
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
    return found


USUAL = {"axn": 10, "axn-paper": 5}
ROUNDS = {(name if USUAL[name] == n else f"{name}-r{n}"): n for name in USUAL for n in (1, 2, 5, 10, 20)}
COSTLY = [
    *(
        "rerank",
        "axn:mf@10",
        "axn-paper:mf-adamw@10",
        "axn:mf-ind@10",
    ),
    *("axn:distilled@10", "adacur:cur@10"),
]


def sharing_table(measured: dict[str, Any]) -> str:
    """What `sharing.py` measured."""

    def less(reduced: dict[str, float] | None) -> str:
        if reduced is None:
            return ""
        mean, low, high = (round(100 * reduced[part]) for part in ("mean", "low", "high"))
        return f"{mean}% ({low} to {high})"

    rows = []
    for row in measured["rows"]:
        against = row["error_reduction"]
        paper = next((other for other in against if other != "itself"), None)
        theirs = [
            p["each"]
            for p in measured["paper"]
            if (p["system"], p["k"], p["budget"]) == (paper, row["k"], row["budget"])
        ]
        rows.append(
            [
                f"`{row['system']}`",
                f"{row['k']}@{row['budget']}",
                f"{100 * row['each']:.1f}",
                f"{100 * row['shared']:.1f}",
                f"{row['fewest']} to {row['most']}",
                less(against["itself"]),
                f"{100 * theirs[0]:.1f}" if theirs else "",
                less(against[paper]) if paper else "",
            ]
        )
    head = [
        "system",
        "at",
        "each",
        "shared",
        "calls of a query",
        "less unfound",
        "the paper's best",
        "less unfound than it",
    ]
    return table(head, rows)


def settings_table(measured: dict[str, Any]) -> str:
    """What `choices.py` measured."""
    points = [f"{k}@{m}" for k, m in POINTS]
    rows = [
        [name, f"`{method}`", *(f"{at[p]:.1f}" for p in points), f"{sum(at[p] for p in points) / len(points):.1f}"]
        for name, of_name in measured["recall"].items()
        for method, at in of_name.items()
    ]
    return table(["learned", "system", *points, "mean"], rows)


def acquisition_table(measured: dict[str, Any]) -> str:
    """What `acquisition.py` measured."""
    points = [f"{k}@{m}" for k, m in POINTS]
    rows = [
        [name, *(f"{at[p]:.1f}" for p in points), f"{sum(at[p] for p in points) / len(points):.1f}"]
        for name, at in measured["recall"].items()
    ]
    return table(["items that are scored next", *points, "mean"], rows)


def new_items_table(measured: dict[str, Any]) -> str:
    """What `new_items.py` measured."""
    head = [f"{point}, {which}" for point in ("10@100", "100@500") for which in ("all items", "new items")]
    rows = [
        [f"`{name}`, new items {how}", *(f"{value:.1f}" for of_point in at.values() for value in of_point.values())]
        for name, ways in measured["recall"].items()
        for how, at in ways.items()
    ]
    return table(["", *head], rows)


REPORT_OF = (
    dict.fromkeys(("late", "lateerrors"), "late-")
    | dict.fromkeys(("states", "stateserrors"), "states-")
    | dict.fromkeys(("ucb", "ucberrors"), "ucb-")
    | dict.fromkeys(("best", "besterrors"), "best-")
    | dict.fromkeys(("default", "defaulterrors"), "default-")
    | dict.fromkeys(("beyond", "pairs", "errors", "gains"), "beyond-")
)
"""Of which of a data set's reports a table is, where it is not that of the paper's systems."""


def papers_systems(report: dict[str, Any]) -> list[str]:
    """The paper's systems but for variants of rounds."""
    found = dict.fromkeys(c["method"] for c in report["cells"])
    return [s for s in found if not beyond_the_paper(s) and (s not in ROUNDS or s in USUAL)]


DATA = {
    "icd": ("icd10cm-10k", "ICD-10-CM"),
    "hpo": ("hpo-10k", "HPO"),
    "wordnet": ("wordnet-10k", "WordNet"),
}
PAPERS_BEST = "axn-paper-r10-m0.8:mf@"
HEADLINES = (
    ("retrieve and rerank", "rerank", "beyond-"),
    ("AXN with our solver, nothing learned", "axn", "beyond-"),
    ("the best of the paper's systems", f"{PAPERS_BEST}10", "beyond-"),
    ("AXN with our solver over learned vectors", "axn:mf@10", "beyond-"),
    ("a learned prior, half of these calls in a second pass", "bayes:mf-side-refined@10", "ucb-"),
    ("n-grams of letters beside the dual encoder's vectors", "bayes/hybrid:mf-side-refined@10x125", "beyond-"),
    (
        "late interaction before, the cross-encoder's states beside",
        "bayes/latestates:mf-side-refined@10x125",
        "best-",
    ),
    (
        "the next items by upper confidence bounds, in fifty rounds",
        "bayes-ucb-r50/latestates:mf-side-refined@10x125",
        "best-",
    ),
)
"""What is told first: in words, the system, and the report it is in."""


def headline_table() -> str:
    """One row for each step from reranking to the best there is, on all data sets."""
    points = ((10, 100), (100, 500))
    rows = []
    for words, method, prefix in HEADLINES:
        row = [words, f"`{method}`"]
        for name, _ in DATA.values():
            report = read(f"{prefix}{name}/report.json")
            cells = {c["budget"]: c for c in report["cells"] if c["method"] == method}
            if len(row) == 2:
                row.append(f"{report['offline'][method]['calls'] / report['n_items']:.3g}")
            row += [f"{100 * cells[m]['recall'][str(k)]['mean']:.1f}" for k, m in points]
        rows.append(row)
    return table(
        [
            *("what it does", "system", "offline calls per item"),
            *(f"{said}, {k}@{m}" for _, said in DATA.values() for k, m in points),
        ],
        rows,
    )


def aims_table() -> str:
    """How much of what the paper's best leaves unfound ours finds, at equal calls offline and online: as it comes, and
    with bounds in fifty rounds."""
    rows = []
    for name, said in DATA.values():
        report = read(f"best-{name}/report.json")
        for calls, queries in ((10, 125), (2, 100)):
            for method in ("bayes", "bayes-ucb-r50"):
                ours, paper = f"{method}/latestates:mf-side-refined@{calls}x{queries}", f"{PAPERS_BEST}{calls}"
                found = {(c["method"], c["budget"]): c["recall"] for c in report["cells"]}
                row = [said, str(calls), f"`{ours}`"]
                for k, m in ((1, 100), (10, 100), (100, 500)):
                    (less,) = (
                        p["error_reduction"][str(k)]
                        for p in report["pairs"]
                        if (p["method"], p["other"], p["budget"]) == (ours, paper, m)
                    )
                    recalls = [100 * found[system, m][str(k)]["mean"] for system in (paper, ours)]
                    share = f"{100 * less['mean']:.0f}% ({100 * less['low']:.0f} to {100 * less['high']:.0f})"
                    row.append(f"{recalls[0]:.1f}, {recalls[1]:.1f}: {share}")
                rows.append(row)
    return table(["", "offline calls per item", "system", "1@100", "10@100", "100@500"], rows)


def content_of(marker: str) -> str:
    """The table of a marker: ``headline``, ``aims``, or ``DATA-TABLE``."""
    if marker == "headline":
        return headline_table()
    if marker == "aims":
        return aims_table()
    short, _, kind = marker.partition("-")
    name, _ = DATA[short]
    if kind in ("stopping", "calibrated"):
        return stopping_table(read(f"stopping-{name}-test.json"), calibrated=kind == "calibrated")
    if kind == "sharing":
        return sharing_table(read(f"sharing-{name}-test.json"))
    if kind == "ablations":
        return ablations_table(read(f"ablations-{name}.json"))
    if kind == "answered":
        return answered_table(read(f"ablations-{name}.json"))
    if kind == "settings":
        return settings_table(read("choices.json"))
    if kind == "acquisition":
        return acquisition_table(read("acquisition.json"))
    if kind == "newitems":
        return new_items_table(read("new_items.json"))
    if kind == "choices":
        return recall_table(read(f"choices-{name}-dev/report.json"))
    if kind == "dense":
        return systems_table(read(f"dense-{name}/report.json"))
    report = read(f"{REPORT_OF.get(kind, '')}{name}/report.json")
    made: dict[str, Callable[[], str]] = {
        "systems": lambda: systems_table(report, papers_systems(report)),
        **dict.fromkeys(("beyond", "late", "states", "ucb", "best", "default"), lambda: systems_table(report)),
        "gains": lambda: gains_table(report, ["axn", "axn:mf@10", "bayes:mf-side-refined@10x125"]),
        "offline": lambda: offline_table(report, [s for s in COSTLY if s in report["offline"]]),
        "rounds": lambda: rounds_table(report, ROUNDS),
        "own": lambda: pairs_table(report, own=True),
        "below": lambda: below_table(report),
        "pairs": lambda: pairs_table(report, own=False),
        **dict.fromkeys(
            ("errors", "lateerrors", "stateserrors", "ucberrors", "besterrors", "defaulterrors"),
            lambda: pairs_table(report, own=False, error=True),
        ),
    }
    return made[kind]()


def main() -> None:
    """Fill in every marker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("markers", nargs="*", help="beginnings of those to fill in, such as icd; all unless given")
    asked = tuple(parser.parse_args().markers)
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md", *sorted((ROOT / "docs" / "results").glob("*.md"))):
        page.write_text(
            re.sub(
                r"(<!-- (?!end )([\w-]+) -->\n).*?(<!-- end -->)",
                lambda m: f"{m[1]}{content_of(m[2])}\n{m[3]}" if not asked or m[2].startswith(asked) else m[0],
                page.read_text(),
                flags=re.S,
            )
        )


if __name__ == "__main__":
    main()
