# The node, and everything else that the command `navnode` does. Build: docker build -t navnode .
# Run: compose.yaml, and docs/deployment.md. Research use only, not a medical device.
FROM python:3.13-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim-bookworm
# Nobody logs in, and nothing runs as root; recordings and calibrations are this user's.
RUN useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin navnode \
 && install --directory --owner navnode --mode 700 /data /home/navnode/.cache
COPY requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir --require-hashes --only-binary :all: --requirement /tmp/requirements.lock
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels pip install --no-cache-dir --no-deps /wheels/*.whl
USER 10001:10001
WORKDIR /data
# The page answers only when the node's processes were started. A container that serves no page states another check.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/metrics', timeout=2)"]
ENTRYPOINT ["navnode"]
CMD ["--help"]
