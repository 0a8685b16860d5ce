#!/usr/bin/env python
"""Django's command line; starts the embedded database when there is no other."""

from __future__ import annotations

import os
import signal
import sys

_WITHOUT_DATABASE = {"help", "version", "check", "collectstatic", "findstatic", "diffsettings"}
_TELLS_OF_DATABASE = {"doctor"}  # that it cannot be reached is among what this says
_ANSWERED_AT_ONCE = {"-h", "--help", "--version"}
# as a shell tells of what a signal has ended
_BROKEN_OFF = 128 + signal.SIGINT
_NOBODY_READS = 128 + signal.SIGPIPE


def _needs_database(arguments: list[str]) -> bool:
    return bool(arguments) and arguments[0] not in _WITHOUT_DATABASE and not _ANSWERED_AT_ONCE & set(arguments)


def main() -> None:
    """Run one management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "planner_site.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import OperationalError

    from planner_site.database import DatabaseUnavailable, check_database, choose_database, explanation

    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:  # bytes that Python could not read: no name here can hold them
        sys.exit("The command line is not UTF-8.")
    try:
        if _needs_database(sys.argv[1:]):
            choose_database()
            if sys.argv[1] not in _TELLS_OF_DATABASE:
                check_database()
        execute_from_command_line(sys.argv)
    except (DatabaseUnavailable, ImproperlyConfigured) as error:
        sys.exit(str(error))
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None):  # the server answered: it is reachable, this is a fault
            raise
        sys.exit(explanation(error))


def _run() -> int:
    """Run it; one that is broken off, or whose output nobody reads any more, ends without a traceback."""
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("Broken off; it may be run again.\n")
        return _BROKEN_OFF
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
        return _NOBODY_READS
    return 0


if __name__ == "__main__":
    sys.exit(_run())
