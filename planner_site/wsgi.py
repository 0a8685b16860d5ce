"""What a WSGI server runs: `gunicorn -c planner_site/gunicorn_conf.py`."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from planner_site.database import ensure_database

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "planner_site.settings")
ensure_database()
application = get_wsgi_application()
