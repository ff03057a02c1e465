"""Django as it is deployed: no debug, JSON alone, a pool of connections."""

import os
from urllib.parse import parse_qs, urlsplit

_url = urlsplit(os.environ["DATABASE_URL"])
_options = parse_qs(_url.query)
_connections = int(os.environ["CONNECTIONS"])

SECRET_KEY = "no sessions, no cookies, nothing signed"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tasks.api"
INSTALLED_APPS = ["rest_framework", "django_filters", "tasks"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
if os.environ.get("BENCH_CONDITIONAL"):  # makes a tag of every response, so only for requests that have one
    MIDDLEWARE.append("django.middleware.http.ConditionalGetMiddleware")
USE_TZ = True
TIME_ZONE = "UTC"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path.strip("/"),
        "USER": _url.username,
        "HOST": _options["host"][0],
        "PORT": _options["port"][0],
        "OPTIONS": {"pool": {"min_size": _connections, "max_size": _connections}},
    }
}
REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 20,
    "UNAUTHENTICATED_USER": None,
}
