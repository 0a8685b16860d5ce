"""What a WSGI server runs: `gunicorn -c planner_site/gunicorn_conf.py`."""

from __future__ import annotations

import io
import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

from planner_site.database import choose_database

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "planner_site.settings")
choose_database()  # not checked: the web starts during an outage too, and answers 503 until it is over
application = get_wsgi_application()
call_command("check", "--fail-level", "ERROR", stdout=io.StringIO())  # a wrong setting ends the start, with its remedy
