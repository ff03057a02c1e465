# The service without the embedded PostgreSQL: it wants a DATABASE_URL. `docker compose up` runs it with one.
# Builds of one commit on one base have the same files, byte for byte; SOURCE_DATE_EPOCH gives these the same times as well. To pin the
# base: --build-arg PYTHON=python:3.13-slim@sha256:…
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS web
WORKDIR /src
COPY requirements-web.lock .
COPY web web
RUN python web/build.py
RUN python web/build.py sbom >/sbom.json

FROM ${PYTHON} AS build
RUN apt-get update && apt-get install --yes --no-install-recommends binutils
WORKDIR /src
RUN python -m venv --without-pip /opt/rowcast
COPY requirements.lock .
RUN pip --python /opt/rowcast/bin/python install --no-cache-dir --no-compile --require-hashes -r requirements.lock
# Symbols for debuggers, sources of compiled modules, and what only a build or a test of a package needs: more than half of all.
RUN cd /opt/rowcast/lib/python3*/site-packages \
    && find . -name '*.so*' -type f -exec strip --strip-unneeded {} + \
    && find . '(' -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.map' ')' -type f -delete \
    && find swagger_ui_bundle -name '*-es-bundle*' -delete \
    && find greenlet -name tests -prune -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY --from=web /src/service/rowcast/assets service/rowcast/assets
RUN pip --python /opt/rowcast/bin/python install --no-cache-dir --no-compile --no-deps --no-build-isolation .
# Modules are compiled once, also those that building has compiled, without the times of their sources.
RUN /opt/rowcast/bin/python -m compileall -q -f -j 1 --invalidation-mode unchecked-hash /opt/rowcast/lib
COPY --chmod=755 config /app/config
COPY --chmod=755 migrations /app/migrations
ARG SOURCE_DATE_EPOCH
RUN [ -z "$SOURCE_DATE_EPOCH" ] || find /opt/rowcast /app -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

# What the image has beside its base, in CycloneDX: docker build --target sbom --output dist .
FROM build AS describe
COPY requirements-sbom.lock .
RUN python -m venv /opt/sbom && /opt/sbom/bin/python -m pip install --no-cache-dir --require-hashes -r requirements-sbom.lock
RUN mkdir /sbom && /opt/sbom/bin/cyclonedx-py environment --output-reproducible --output-file /sbom/rowcast.cdx.json /opt/rowcast/bin/python
COPY --from=web /sbom.json /sbom/rowcast-web.cdx.json

FROM scratch AS sbom
COPY --from=describe /sbom /

FROM ${PYTHON}
ENV PATH=/opt/rowcast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Not by useradd, which writes the day. docker-compose.yml gives the database's password to this user id.
RUN echo 'rowcast:x:10001:' >>/etc/group && echo 'rowcast:x:10001:10001::/app:/usr/sbin/nologin' >>/etc/passwd
COPY --from=sbom / /usr/share/sbom/
COPY --from=build /opt/rowcast /opt/rowcast
COPY --from=build /app /app
WORKDIR /app
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["rowcast"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--migrate"]
