"""The real metadata service (MDS), run for the demo and the tests from its own environment, `.venv-mds`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from planner_site.processes import Service, ServiceError, free_port

CHECKOUT = Path(__file__).resolve().parent.parent
PROGRAM = CHECKOUT / ".venv-mds" / "bin" / "aibrix_metadata"


class MetadataService:
    """One MDS in dry-run: it keeps everything in its working folder, so a fresh folder is an empty MDS."""

    def __init__(
        self, folder: Path, *, port: int = 0, log: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """On a free port unless one is named; `environment` is added to this process's own."""
        if not PROGRAM.exists():
            raise ServiceError(f"The metadata service is not installed ({PROGRAM} is missing): run `make setup`.")
        folder.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.service = Service(
            "metadata service",
            [PROGRAM, "--host", "127.0.0.1", "--port", str(port), "--dry-run"],
            log=log or folder / "service.log",
            folder=folder,
            environment={k: v for k, v in os.environ.items() if k != "DATABASE_URL"} | dict(environment or {}),
        )

    def wait_until_up(self, *, timeout_seconds: float = 120) -> None:
        """Wait for /healthz: /readyz stays 503 in a dry-run, for want of a Redis."""
        self.service.wait_until_answers(f"{self.url}/healthz", timeout_seconds=timeout_seconds)

    def stop(self) -> None:
        """Stop it and wait for its end."""
        self.service.stop()
