# The service without the embedded PostgreSQL: it wants a DATABASE_URL. `docker compose up` runs it with one.
FROM python:3.13-slim AS web
WORKDIR /src
COPY requirements-web.lock .
COPY web web
RUN python web/build.py

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/rowcast
COPY requirements.lock .
RUN pip --python /opt/rowcast/bin/python install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml .
COPY README.md LICENSE ./
COPY service service
COPY --from=web /src/service/rowcast/assets service/rowcast/assets
RUN pip --python /opt/rowcast/bin/python install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
ENV PATH=/opt/rowcast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# docker-compose.yml gives the database's password to this user id.
RUN useradd --system --uid 10001 rowcast
COPY --from=build /opt/rowcast /opt/rowcast
WORKDIR /app
COPY --chmod=755 config config
COPY --chmod=755 migrations migrations
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["rowcast"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--migrate"]
