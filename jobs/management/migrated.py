"""Commands that need all tables."""

from __future__ import annotations

from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor


class MigratedCommand(BaseCommand):
    """On a database that lacks migrations it ends in one line, before it has done anything."""

    requires_migrations_checks = True

    def check_migrations(self) -> None:
        """Django's own only warns, on stdout."""
        executor = MigrationExecutor(connection)
        if missing := executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError(f"The database lacks {len(missing)} migrations. Run: manage.py migrate")
