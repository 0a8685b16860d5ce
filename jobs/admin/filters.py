"""For the admin's templates: times with how far away they are, statuses in their colours, documents without secrets."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils import timezone

from jobs.admin.charts import short
from jobs.admin.rows import ago, label, moment
from jobs.story import span

register = template.Library()


@register.filter
def age(at: datetime) -> str:
    """How long ago."""
    return span(timezone.now() - at)


register.filter("ago", ago)
register.filter("moment", moment)
register.filter("label", label)
register.filter("short", short)
