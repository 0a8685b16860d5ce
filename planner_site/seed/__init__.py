"""Many jobs, as long use would have left them: by COPY, in minutes for a million."""

from __future__ import annotations

from planner_site.seed.loading import SeedRefused, load

__all__ = ["SeedRefused", "load"]
