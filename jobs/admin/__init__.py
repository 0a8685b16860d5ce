"""The operators' side: how things stand, every row to look at, pools and catalogue to edit, and what may be asked for.

Nothing here calls a provider or the MDS, and nothing writes a status: an action records a wish through `planner`.
"""

from __future__ import annotations

from django.contrib import admin

from jobs.admin import catalogue, engine, event, job, people, pool, provision, queue, tokens

__all__ = ["catalogue", "engine", "event", "job", "people", "pool", "provision", "queue", "tokens"]

admin.site.index_title = "Dashboard"
