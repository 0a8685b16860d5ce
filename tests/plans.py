"""How PostgreSQL ran the queries on many jobs, told by the queries' own plans; and many jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import connection
from django.db.models import Model

from jobs.models import Job


@dataclass
class Plan:
    """What one query did."""

    sql: str
    rows: Counter[str] = field(default_factory=Counter)  # read, by table
    read_whole: set[str] = field(default_factory=set)  # tables scanned from one end to the other

    def add(self, node: dict[str, Any]) -> None:
        """One node and what is below it."""
        if table := node.get("Relation Name"):
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            self.rows[table] += (node["Actual Rows"] + removed) * node["Actual Loops"]
            if node["Node Type"] == "Seq Scan":
                self.read_whole.add(table)
        for below in node.get("Plans", []):
            self.add(below)


@contextmanager
def explained() -> Iterator[list[Plan]]:
    """The plans of the queries on jobs and provisions meanwhile, as they ran."""
    plans: list[Plan] = []

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if ("jobs_job" in sql or "jobs_provision" in sql) and not sql.startswith("EXPLAIN"):
            with connection.cursor() as cursor:
                cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + sql, params)
                plans.append(Plan(sql))
                plans[-1].add(cursor.fetchone()[0][0]["Plan"])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield plans


def repeat(row: Model, times: int, at: str = "accepted_at", **changed: str) -> None:
    """Copies of a row, one a second; as the ORM they would take longer than the test."""
    columns = {field.column: f'"{field.column}"' for field in row._meta.concrete_fields if not field.generated}
    columns |= {at: f"{at} + n * interval '1 s'", "id": "id || '-' || n", **changed}
    if isinstance(row, Job):  # so that rows are as wide
        columns["template_spec"] = "jsonb_build_object('padding', repeat('x', 400))"
    table = row._meta.db_table
    source = f"SELECT {', '.join(columns.values())} FROM {table}, generate_series(1, %s) n WHERE id = %s"  # noqa: S608 - our own columns
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({', '.join(columns)}) {source}", [times, row.pk])
        cursor.execute(f"ANALYZE {table}")
