# The CPU server: no torch, no compiler, no root.
FROM python:3.11-slim-bookworm AS build
RUN python -m venv /opt/secondlook
WORKDIR /src
# cluster.txt has the client of Milvus too. Both have what a rebuild needs that fits a linear head: scikit-learn and onnx.
ARG LOCK=serve.txt
COPY locks/${LOCK} locks/
RUN /opt/secondlook/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r locks/${LOCK}
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY indexer indexer
COPY curation curation
COPY evaluation evaluation
COPY service service
COPY secondlook secondlook
RUN /opt/secondlook/bin/pip install --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps . \
    && /opt/secondlook/bin/pip uninstall --yes hatchling editables pip \
    && find /opt/secondlook -name __pycache__ -type d -prune -exec rm -rf {} +

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home secondlook && install -d -o secondlook /bundles && install -d /data
COPY --from=build /opt/secondlook /opt/secondlook
# There is no home; engines are measured once in a container, for all workers.
ENV PATH=/opt/secondlook/bin:$PATH \
    XDG_CACHE_HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    SECONDLOOK_HOST=0.0.0.0 \
    SECONDLOOK_PORT=8000 \
    SECONDLOOK_BUNDLES=/bundles \
    SECONDLOOK_DATA=/data
USER 10001
VOLUME /bundles
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["secondlook", "serve"]
