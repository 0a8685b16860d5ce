"""Where a job may run: pools that offer the accelerator it wants, among those it accepts. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.models import Job, Pool

Accepts = Mapping[str, list[str]]  # by `providers`, `pools`, `regions`: names; what is not there may be any


@dataclass(frozen=True)
class Wanted:
    """What the jobs of one class wait for; an empty list of names is no condition."""

    accelerator_type: str
    providers: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()

    @classmethod
    def of(cls, accelerator_type: str, accepts: Accepts) -> Wanted:
        """Of a job with these columns."""
        return cls(accelerator_type, **{kind: tuple(names) for kind, names in accepts.items()})

    def suits(self, pool: Pool) -> bool:
        """Whether these jobs may ever go to the pool, however full it is now."""
        types = pool.accelerator_types
        if types and self.accelerator_type and self.accelerator_type not in types:
            return False
        return self.accepts(pool)

    def accepts(self, pool: Pool) -> bool:
        """Whether the pool is one of those they name. One that tells no region is in none."""
        named = ((self.providers, pool.provider), (self.pools, pool.name), (self.regions, pool.region))
        return all(not names or name in names for names, name in named)

    def __str__(self) -> str:
        named = {"providers": self.providers, "pools": self.pools, "regions": self.regions}
        return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in named.items() if names)


def wanted_by(job: Job) -> Wanted:
    """What one job waits for."""
    return Wanted.of(job.accelerator_type, job.accepts)


def queue_class(accelerator_type: str, accepts: Accepts | None = None) -> str:
    """The class of jobs that wait for the same pools: accelerator type, then a digest of what they accept."""
    return f"{accelerator_type}|{_digest(accepts) if accepts else ''}"


def _digest(accepts: Accepts | dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(accepts, sort_keys=True).encode()).hexdigest()[:32]
