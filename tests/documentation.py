"""The generated parts of the documentation. `python -m tests.documentation` rewrites them in place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jobs.statuses import JOB_TRANSITIONS, PROVISION_TRANSITIONS, JobStatus, ProvisionStatus

DOCS = Path(__file__).resolve().parent.parent / "docs"


def diagram(kind: type[JobStatus] | type[ProvisionStatus], table: Mapping[object, frozenset[object]]) -> str:
    """A Mermaid state diagram of a transition table, in the order of the statuses."""
    order = list(kind)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {order[0].value}"]
    for status in order:
        targets = [target for target in order if target in table[status]]
        lines += [f"    {status.value} --> {target.value}" for target in targets]
        if not targets:
            lines.append(f"    {status.value} --> [*]")
    return "\n".join([*lines, "```"])


def lifecycle_page(text: str) -> str:
    """The page with its diagrams as they should be."""
    diagrams = {
        "job": diagram(JobStatus, JOB_TRANSITIONS),
        "provision": diagram(ProvisionStatus, PROVISION_TRANSITIONS),
    }
    for name, drawn in diagrams.items():
        pattern = rf"<!-- {name} diagram -->.*?<!-- end -->"
        text = re.sub(pattern, f"<!-- {name} diagram -->\n{drawn}\n<!-- end -->", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    page = DOCS / "lifecycle.md"
    page.write_text(lifecycle_page(page.read_text()))
