"""How many CE calls each round of a search makes."""

BETWEEN_STOPS = 25
"""Most CE calls between two looks at whether a query has found enough."""

_FIRST_STOPS = 100
"""CE calls up to which a search that may stop has rounds as small as one with so many calls."""


def round_sizes(budget: int, rounds: int) -> list[int]:
    """A budget in rounds as equal as can be, the larger ones first; no round is empty."""
    rounds = max(1, min(rounds, budget))
    share, rest = divmod(budget, rounds)
    return [size for size in (share + (n < rest) for n in range(rounds)) if size > 0]


def growing_sizes(budget: int, rounds: int) -> list[int]:
    """A budget in rounds such that whoever stops has had about as many of them as a search that was to end there, or
    more where that has rounds of over 25 calls.

    They begin as large as in a search with 100 calls in so many rounds, and then have the share ``2 / rounds`` of what
    was spent, 25 calls at most: 5 and a tenth for 20 rounds. Chosen on dev queries: to a target of .95 a search made
    122 and 70 calls for the top 10 (HPO, ICD-10-CM) where rounds of 25 made 150 and 92, and 24 and 29 for the top item
    where these made 42 and 46 (it makes 25 at least since), at a recall of 1 point less at most but for one (2, of the
    top item).
    """
    least = min(-(-_FIRST_STOPS // rounds), -(-budget // rounds))
    sizes, spent = [], 0
    while spent < budget:
        sizes.append(min(max(least, 2 * spent // rounds), BETWEEN_STOPS, budget - spent))
        spent += sizes[-1]
    return sizes
