# One image for the autoscaler, the hosts and the command line: `docker run flashq:local --help`.
# Functions travel by value, so PYTHON_VERSION is the callers' minor version.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
# On a network with a package mirror: --build-arg PIP_INDEX_URL=… --build-arg UV_DEFAULT_INDEX=…
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
WORKDIR /src
COPY constraints.txt ./
# The pinned uv, hash and all, from the one file of pins.
RUN sed -n '/^uv==/,/[^\\]$/p' constraints.txt >uv.txt \
    && pip install --no-cache-dir --require-hashes --no-deps --requirement uv.txt \
    && uv venv /opt/flashq
COPY pyproject.toml README.md LICENSE ./
COPY flashq flashq
COPY workers workers
COPY autoscaler autoscaler
RUN uv pip install --python /opt/flashq/bin/python --no-cache --compile-bytecode \
        --constraints constraints.txt --build-constraints constraints.txt ".[all]"

FROM python:${PYTHON_VERSION}-slim
# /run/flashq is where compose.yaml mounts a tmpfs for the key. runc 1.1 gives a tmpfs the mode of the folder under it
# at every start but, where it made that folder itself, the first.
RUN useradd --uid 1000 --create-home flashq \
    && install -d -o flashq -g flashq /var/lib/flashq \
    && install -d -m 1777 /run/flashq
COPY --from=build /opt/flashq /opt/flashq
ENV PATH=/opt/flashq/bin:$PATH \
    FLASHQ_HOME=/var/lib/flashq \
    PYTHONUNBUFFERED=1
USER flashq
ENTRYPOINT ["flashq"]
