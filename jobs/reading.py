"""Rows read by statements that stay the same, thousands a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Model

M = TypeVar("M", bound=Model)
_Shape = tuple[Callable[[Any], Any], list[str], list[tuple[int, Callable[..., Any]]]]


def rows(model: type[M], sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[M]:
    """What `model.objects.raw` tells of a statement that selects all columns.

    That one finds out anew each time which column is which field and how it is converted.
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        found = cursor.fetchall()
        in_order, names, converters = _shape(model, tuple(column.name for column in cursor.description))
    made = []
    for row in found:
        values = list(in_order(row))
        for place, convert in converters:
            values[place] = convert(values[place], None, connection)
        made.append(model.from_db(connection.alias, names, values))
    return made


@cache
def _shape(model: type[Model], columns: tuple[str, ...]) -> _Shape:
    """How to bring a row into the order of the model's fields, their names, and which are converted."""
    fields = model._meta.concrete_fields
    converters = [(place, field.from_db_value) for place, field in enumerate(fields) if hasattr(field, "from_db_value")]
    return itemgetter(*[columns.index(field.column) for field in fields]), [f.attname for f in fields], converters
