"""What tests of rules and dashboards know of PromQL and of docs/METRICS.md."""
import re

import emoe_tools as tools

WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "inf", "nan"}


def documented_metrics():
    """Names of the series in docs/METRICS.md; of a histogram those that it is served as."""
    names = set()
    for line in (tools.ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8").splitlines():
        row = re.match(r"\| `([a-z_]+:)?(emoe_[a-z0-9_]+)(:[a-z0-9_]+)?` \| (\w+) ", line)
        if row:
            name = "".join(part or "" for part in row.groups()[:3])
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if row.group(4) == "histogram" else {name}
    return names


def metrics_of(expression):
    """Names of the series that an expression reads."""
    text = re.sub(r"#.*", "", expression)
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    text = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", text)
    text = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    found = re.findall(r"(?<![\w.$:])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", text)
    return {name for name in found if name not in WORDS}
