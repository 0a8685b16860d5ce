"""Django settings: everything an installation sets comes from the environment; the table is in README.md."""

from __future__ import annotations

import os
from pathlib import Path

from planner_site.admin_theme import UNFOLD as UNFOLD
from planner_site.database import database_settings
from planner_site.logs import logging_settings

BASE_DIR = Path(__file__).resolve().parent.parent


def _flag(name: str, default: str) -> bool:
    return os.environ.get(name, default).strip().lower() in {"1", "true", "yes", "on"}


def _names(name: str) -> list[str]:
    return [entry.strip() for entry in os.environ.get(name, "").split(",") if entry.strip()]


DEBUG = _flag("DJANGO_DEBUG", "0")
# Off for plain http, as in the demo on loopback; a browser then may send cookies unencrypted.
HTTPS = _flag("DJANGO_HTTPS", "0" if DEBUG else "1")
_DEVELOPMENT_KEY = "development-only-not-a-secret-" + "0" * 32
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or _DEVELOPMENT_KEY
IS_DEVELOPMENT_KEY = SECRET_KEY == _DEVELOPMENT_KEY
ALLOWED_HOSTS = [h for h in os.environ.get("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",") if h]

SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_HSTS_SECONDS = 30 * 86_400 if HTTPS else 0
# Subdomains and preload lists are the whole domain's affair, not this application's.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SESSION_COOKIE_AGE = 86_400
LOGIN_URL = "/api/v1/auth/login"

INSTALLED_APPS = [
    "planner_site.apps.SiteConfig",
    "jobs.apps.JobsConfig",  # before django_q: its qcluster command is ours
    "unfold",  # before the admin, whose templates and site it takes the place of
    "unfold.contrib.filters",
    "django.contrib.admin.apps.SimpleAdminConfig",  # its classes are loaded by the routes: workers have no use for them
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "django_htmx",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
]

MIDDLEWARE = [
    "planner_site.observing.ObservedRequests",
    "planner_site.probes.AnswerProbes",
    "corsheaders.middleware.CorsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "jobs.api.authentication.DevUserMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "planner_site.nul.RefuseNulInAdmin",
    "jobs.pages.policy.ContentSecurityPolicy",
]

ROOT_URLCONF = "planner_site.urls"
WSGI_APPLICATION = "planner_site.wsgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"desk": "jobs.admin.filters"},
        },
    },
]

DATABASES = {"default": database_settings()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("MinimumLengthValidator", "CommonPasswordValidator", "NumericPasswordValidator")
]

# Uploads go to disk as they arrive; only the fields beside them, and JSON bodies, are held in memory.
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["jobs.api.authentication.PlannerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["jobs.api.bodies.JsonBody"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "jobs.api.bodies.JsonOnly",
    "DEFAULT_SCHEMA_CLASS": "jobs.schema.document.TableSchema",
    "DEFAULT_THROTTLE_CLASSES": ["jobs.api.throttling.WriteThrottle"],
    "EXCEPTION_HANDLER": "jobs.api.errors.exception_handler",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Batch planner",
    "DESCRIPTION": "Batch inference on rented accelerators. Times are unix seconds; what is long comes in pages.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/",
    "POSTPROCESSING_HOOKS": ["jobs.schema.document.with_components"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

# The console from another origin. `*` is for reading with tokens: no browser then sends a session along.
_CORS_ORIGINS = [origin.lower().rstrip("/") for origin in _names("PLANNER_CORS_ORIGINS")]
CORS_ALLOW_ALL_ORIGINS = _CORS_ORIGINS == ["*"]
CORS_ALLOWED_ORIGINS = [] if CORS_ALLOW_ALL_ORIGINS else _CORS_ORIGINS
CORS_ALLOW_CREDENTIALS = not CORS_ALLOW_ALL_ORIGINS
CORS_ALLOW_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
CORS_ALLOW_HEADERS = ["Content-Type", "Authorization", "X-User-ID", "Idempotency-Key"]
CORS_URLS_REGEX = r"^/(api|v1)(/|$)"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
FORMAT_MODULE_PATH = ["planner_site.formats"]

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"

# The planner. Names and meanings: README.md.
PLANNER_INSTALLATION = os.environ.get("PLANNER_INSTALLATION", "default")
PLANNER_MDS_URL = os.environ.get("PLANNER_MDS_URL", "http://127.0.0.1:8090").rstrip("/")
PLANNER_PROVIDER = os.environ.get("PLANNER_PROVIDER", "")
PLANNER_PROVIDERS = {
    "simulated": "jobs.provisioners.simulated.SimulatedProvisioner",
    "passthrough": "jobs.provisioners.passthrough.PassthroughProvisioner",
    "runpod": "jobs.provisioners.runpod.RunPodProvisioner",
    "lambda_cloud": "jobs.provisioners.lambda_cloud.LambdaCloudProvisioner",
    "kubernetes": "jobs.provisioners.kubernetes.KubernetesProvisioner",
}
PLANNER_QUEUE_POLICIES = {
    "fifo": "jobs.queueing.FifoQueue",
    "priority": "jobs.queueing.PriorityQueue",
    "fair_share": "jobs.queueing.FairShareQueue",
}
PLANNER_QUEUE_POLICY = os.environ.get("PLANNER_QUEUE_POLICY", "fifo")
# Of waiting, for each point of priority; counts for jobs accepted or given a priority from then on.
PLANNER_PRIORITY_AGEING_SECONDS = float(os.environ.get("PLANNER_PRIORITY_AGEING_SECONDS", "300"))
PLANNER_QUEUE_CAPACITY = int(os.environ.get("PLANNER_QUEUE_CAPACITY", "10000"))
PLANNER_AUTH_MODE = os.environ.get("PLANNER_AUTH_MODE", "basic")
PLANNER_WRITES_PER_MINUTE = int(os.environ.get("PLANNER_WRITES_PER_MINUTE", "600"))
PLANNER_KEEP_JOBS_DAYS = int(os.environ.get("PLANNER_KEEP_JOBS_DAYS", "0"))
PLANNER_KEEP_FAILED_DAYS = int(os.environ.get("PLANNER_KEEP_FAILED_DAYS", "90"))
PLANNER_PROXIES = int(os.environ.get("PLANNER_PROXIES", "0"))
PLANNER_OIDC_ISSUER = os.environ.get("PLANNER_OIDC_ISSUER", "")
PLANNER_OIDC_CLIENT_ID = os.environ.get("PLANNER_OIDC_CLIENT_ID", "")
PLANNER_OIDC_CLIENT_SECRET = os.environ.get("PLANNER_OIDC_CLIENT_SECRET", "")
PLANNER_OIDC_SCOPES = os.environ.get("PLANNER_OIDC_SCOPES", "openid profile email")
PLANNER_OIDC_GROUPS_CLAIM = os.environ.get("PLANNER_OIDC_GROUPS_CLAIM", "groups")
# Groups and e-mails of each.
PLANNER_OIDC_ROLES = {
    "submitter": _names("PLANNER_OIDC_SUBMITTERS"),
    "viewer": _names("PLANNER_OIDC_VIEWERS"),
    "operator": _names("PLANNER_OIDC_OPERATORS"),
    "superuser": _names("PLANNER_OIDC_SUPERUSERS"),
}
PLANNER_OIDC_DEFAULT_ROLE = os.environ.get("PLANNER_OIDC_DEFAULT_ROLE", "")
PLANNER_CONSOLE_DIST = os.environ.get("PLANNER_CONSOLE_DIST", "")
PLANNER_STATUS_VOCABULARY = os.environ.get(
    "PLANNER_STATUS_VOCABULARY", "console" if PLANNER_CONSOLE_DIST else "planner"
)
# Threads per pass (one pass per worker process): each share is bounded, so that a hung upstream holds up only itself.
PLANNER_THREADS = {
    "pool": 8,
    "release": 4,
    "observe": 1,
    "mds_submit": 8,
    "mds_follow": 4,
    "mds_cancel": 2,
    "scan": 1,
    "undo": 2,
}
PLANNER_TIMES: dict[str, float] = {}
PLANNER_WORKERS = max(1, int(os.environ.get("PLANNER_WORKERS", "4")))

# Who may read /metrics, here and on the workers' port (0: none): who has the token, or comes from these networks.
PLANNER_METRICS_TOKEN = os.environ.get("PLANNER_METRICS_TOKEN", "")
PLANNER_METRICS_NETWORKS = _names("PLANNER_METRICS_NETWORKS") or ["127.0.0.0/8", "::1"]
PLANNER_WORKERS_METRICS_PORT = int(os.environ.get("PLANNER_WORKERS_METRICS_PORT", "0"))

Q_CLUSTER = {
    "name": "planner",
    "broker_class": "jobs.broker.HintBroker",
    "workers": PLANNER_WORKERS,
    "queue_limit": PLANNER_WORKERS,
    "bulk": 1,
    "timeout": 120,
    "retry": 600,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": -1,
    "catch_up": False,
    "recycle": 500,
    "guard_cycle": 0.5,
    "poll": 1,
    "sync": False,
    "log_level": "WARNING",
}

LOGGING = logging_settings()
