"""For the admin's templates: times with how far away they are, statuses in their colours, documents without secrets."""

from __future__ import annotations

from django import template

from jobs.admin.charts import short
from jobs.admin.rows import ago, label, moment

register = template.Library()
register.filter("ago", ago)
register.filter("moment", moment)
register.filter("label", label)
register.filter("short", short)
