"""The numbers of the paper's Tables 3(a) and 8 (arXiv 2505.17682v2), by system, and the logs that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# As the paper's tables have them.
COLUMNS = ("weighted_precision", "weighted_recall", "overall", "head", "medium", "tail")
# The systems of the paper's tables, in their order.
ROWS = (
    *("sasrec", "bert4rec", "pituning", "llm_esr", "alphafuse", "untuned", "endpoint"),
    *("a_llmrec", "llara", "collm", "tallrec", "two_stage"),
)

# Those that `edgeb` has no other use for.
RIVALS = frozenset({"pituning", "llm_esr", "alphafuse", "a_llmrec", "llara", "collm", "tallrec"})

Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class Published:
    """A table of the paper.

    Attributes:
        title: As readers find it there.
        rows: By system, the values of `COLUMNS`; None where the paper has a dash.
    """

    title: str
    rows: Mapping[str, Numbers]


_APP_USAGE = Published(
    "Table 3(a), App Usage",
    {
        "sasrec": (0.5309, 0.5759, 0.2752, 0.5255, 0.2567, 0.1733),
        "bert4rec": (0.3452, 0.5400, 0.0962, 0.5290, None, None),
        "pituning": (0.5837, 0.5133, 0.2910, 0.5029, 0.3721, 0.1066),
        "llm_esr": (0.5437, 0.5906, 0.2779, 0.5615, 0.2467, 0.1750),
        "alphafuse": (0.5621, 0.6024, 0.2873, 0.5706, 0.2552, 0.1881),
        "untuned": (0.5467, 0.5346, 0.3736, 0.5335, 0.3685, 0.3000),
        "endpoint": (0.5872, 0.5678, 0.4557, 0.5410, 0.4642, 0.4025),
        "a_llmrec": (0.5908, 0.6154, 0.3514, 0.5815, 0.3539, 0.2333),
        "llara": (0.6074, 0.6256, 0.4455, 0.5970, 0.4468, 0.3683),
        "collm": (0.6053, 0.6264, 0.4478, 0.6032, 0.4423, 0.3726),
        "tallrec": (0.6173, 0.6306, 0.4397, 0.6205, 0.4328, 0.3580),
        "two_stage": (0.6440, 0.6385, 0.5514, 0.6375, 0.5308, 0.5265),
    },
)
_FOURSQUARE = Published(
    "Table 8, Foursquare-NYC",
    {
        "sasrec": (0.2781, 0.2841, 0.1307, 0.2202, 0.0980, 0.0065),
        "bert4rec": (0.2080, 0.2445, 0.0556, 0.1205, 0.0000, 0.0000),
        "pituning": (0.3243, 0.3167, 0.1220, 0.2132, 0.1225, 0.0000),
        "llm_esr": (0.2834, 0.2896, 0.1430, 0.2238, 0.1085, 0.0152),
        "alphafuse": (0.3313, 0.3217, 0.1463, 0.2246, 0.1493, 0.0240),
        "untuned": (0.2822, 0.2826, 0.1514, 0.1863, 0.1372, 0.1144),
        "endpoint": (0.2989, 0.3010, 0.1912, 0.2273, 0.2056, 0.1405),
        "a_llmrec": (0.2819, 0.2769, 0.0880, 0.1520, 0.0932, 0.0882),
        "llara": (0.3248, 0.3245, 0.1786, 0.2206, 0.2059, 0.1046),
        "collm": (0.3287, 0.3196, 0.1824, 0.2157, 0.2069, 0.1075),
        "tallrec": (0.3246, 0.3220, 0.1786, 0.2181, 0.2157, 0.1013),
        "two_stage": (0.3508, 0.3471, 0.2386, 0.2525, 0.2451, 0.2157),
    },
)


def published_for(source: str, name: str) -> Published | None:
    """The paper's table of a log; None where it has none.

    Args:
        source: The format that the log was imported from; "" where a comparison does not say.
        name: Of the log's file, which tells New York from Tokyo in Foursquare's dataset.
    """
    if source == "app-usage":
        return _APP_USAGE
    return _FOURSQUARE if source in ("tsmc2014", "") and "tsmc2014_nyc" in name.lower() else None
