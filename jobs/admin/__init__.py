"""The operators' side: every row to look at, pools and catalogue to edit, and two things to ask for: cancel, release.

Nothing here calls a provider or the MDS, and nothing writes a status: an action records a wish through `planner`.
"""

from __future__ import annotations

from django.contrib import admin

from jobs.admin import catalogue, engine, job, pool, provision, queue, tokens

__all__ = ["catalogue", "engine", "job", "pool", "provision", "queue", "tokens"]

admin.site.site_header = "Batch planner"
admin.site.site_title = "Batch planner"
admin.site.index_title = "Operations"
admin.site.site_url = "/jobs/"
