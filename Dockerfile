# CPU:  docker build -t openyolov5 --build-arg BASE=python:3.12-slim .
# GPU:  docker build -t openyolov5 ., then docker run --gpus all --ipc=host ...
# The torch wheels include the CUDA libraries; the host needs only the NVIDIA driver and container toolkit.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04
FROM ${BASE}
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
RUN if ! command -v python3 >/dev/null || ! python3 -m venv --help >/dev/null 2>&1; then \
        apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; \
    fi && python3 -m venv /opt/venv
WORKDIR /opt/openyolov5
COPY requirements.txt constraints.txt ./
RUN pip install -r requirements.txt -c constraints.txt
COPY . .
CMD ["python", "train.py", "--help"]
