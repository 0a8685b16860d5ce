"""The engine's rules: what a job does next (`decisions`), what an answer changes (`outcomes`), and the only code that
writes a status (`writing`), one transaction at a time (`claims`, `admission`, `observations`, `scans`)."""

from __future__ import annotations
