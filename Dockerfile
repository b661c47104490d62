# One image for every Settle process: the services, the relay and the `settle` command.

FROM python:3.12-slim AS build
WORKDIR /src
# Dependencies first: they change seldom, and stay in the cache while the code changes. The locks hold what the extras
# `relay` and `services` bring, and what builds the wheel, which stays behind in this stage.
COPY deploy/*.lock deploy/
RUN python -m venv --without-pip /opt/settle \
    && pip --python /opt/settle/bin/python install --no-cache-dir --require-hashes -r deploy/requirements.lock \
    && pip install --no-cache-dir --require-hashes -r deploy/build.lock
COPY . .
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && pip --python /opt/settle/bin/python install --no-cache-dir --no-index --no-deps /tmp/wheel/*.whl

FROM python:3.12-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Settle" \
      org.opencontainers.image.description="Moves money between services that do not share a database" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# tini passes signals on and buries orphans, also where nobody starts the container with --init. Its version is Debian's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /nonexistent settle
COPY --from=build /opt/settle /opt/settle
# The root file system is meant to be read-only, so no byte code is written; pip has compiled it.
ENV PATH=/opt/settle/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
ENTRYPOINT ["tini", "--", "settle"]
CMD ["--help"]
