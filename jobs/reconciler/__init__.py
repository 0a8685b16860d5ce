"""The engine at work: a pass claims what is due, makes the calls on bounded threads, and records what came."""

from __future__ import annotations

from jobs.reconciler.passes import run_pass

__all__ = ["run_pass"]
