"""Pages of long lists: newest first unless asked otherwise, the cursor is the id of the last row received.

No COUNT, no OFFSET.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db.models import Model, QuerySet
from rest_framework.request import Request

from jobs.errors import InvalidRequest

DEFAULT_LIMIT = 20
MAX_LIMIT = 200

Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows, and whether there are more."""

    rows: Sequence[Row]
    has_more: bool

    def edges(self) -> dict[str, Any]:
        """The keys that stand beside the rows in a console list."""
        return {
            "firstId": str(self.rows[0].pk) if self.rows else "",
            "lastId": str(self.rows[-1].pk) if self.rows else "",
            "hasMore": self.has_more,
        }


def read_limit(request: Request) -> int:
    """`limit` of a console list: 20 if absent or 0, at most 200."""
    given = request.query_params.get("limit") or "0"
    if not re.fullmatch(r"[0-9]{1,9}", given):
        raise InvalidRequest("limit", "must be an integer, not negative")
    return min(int(given) or DEFAULT_LIMIT, MAX_LIMIT)


def strict_limit(request: Request, *, default: int, most: int) -> int:
    """`limit` of a list that refuses what is out of bounds: 1 to `most`."""
    given = request.query_params.get("limit") or str(default)
    if not re.fullmatch(r"[0-9]{1,9}", given) or not 1 <= int(given) <= most:
        raise InvalidRequest("limit", f"must be an integer between 1 and {most}")
    return int(given)


def page(
    rows: QuerySet[Row], *, among: QuerySet[Row], by: str, after: str, limit: int, is_ascending: bool = False
) -> Page[Row]:
    """The next `limit` of `rows`, strictly behind the row `after` in the order of (`by`, id), newest first or last.

    The cursor is looked up `among` all that the caller may see: it may have left the filter since. An unknown one
    gives an empty page.
    """
    if after:
        cursor = among.filter(pk=after).values_list(by, "pk").first()
        if cursor is None:
            return Page([], has_more=False)
        # a range on the first column, so that the index is entered at the cursor
        ahead, behind = ("gte", "lte") if is_ascending else ("lte", "gte")
        rows = rows.filter(**{f"{by}__{ahead}": cursor[0]}).exclude(**{by: cursor[0], f"pk__{behind}": cursor[1]})
    sign = "" if is_ascending else "-"
    found = list(rows.order_by(f"{sign}{by}", f"{sign}pk")[: limit + 1])
    return Page(found[:limit], has_more=len(found) > limit)
