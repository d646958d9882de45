# One image for all roles; the command selects one: serve, worker or migrate.
#   CPU:  docker build --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu -t ipt .
#   GPU:  docker build -t ipt:gpu .          (the default wheels of PyTorch include CUDA)
#   with a backbone from the hub:  --build-arg BAKE_MODEL=org/name --build-arg BAKE_REVISION=commit

FROM python:3.11-slim AS dependencies
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/ipt
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN /opt/ipt/bin/pip install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
      --constraint constraints.txt "torch==2.13.0"
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      print('\n'.join(p['dependencies'] + p['optional-dependencies']['service']))" > requirements.txt \
 && /opt/ipt/bin/pip install --constraint constraints.txt --requirement requirements.txt

FROM dependencies AS package
COPY setup.py README.md LICENSE ./
COPY ipt ipt
COPY app app
COPY worker worker
COPY migrations migrations
RUN /opt/ipt/bin/pip install --no-deps --prefix /opt/package .

FROM package AS models
# A backbone from the hub is downloaded at build time, since containers run offline with a read-only file system.
ARG BAKE_MODEL=""
ARG BAKE_REVISION=""
RUN mkdir /opt/models \
 && if [ -n "$BAKE_MODEL" ]; then HF_HOME=/opt/models \
      PYTHONPATH=/opt/package/lib/python3.11/site-packages /opt/ipt/bin/python -c "import os, ipt; \
      ipt.load_backbone(os.environ['BAKE_MODEL'], revision=os.environ['BAKE_REVISION'] or None, device='cpu')"; fi

FROM python:3.11-slim
# For commands such as `python -m app.db.migrate`; `ipt` sets both itself.
ENV PYTHONPATH=/opt/ipt/lib/python3.11/site-packages/ipt_service PYTHONSAFEPATH=1
ENV PATH=/opt/ipt/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 HF_HOME=/opt/models IPT_DATA_DIR=/var/lib/ipt
RUN useradd --uid 10001 --user-group --create-home ipt && install -d -o ipt -g ipt /var/lib/ipt
# The large layers depend on the pins and on the baked model only: a change of code replaces the last one, of 30 MB.
COPY --from=models /opt/models /opt/models
COPY --from=dependencies /opt/ipt /opt/ipt
COPY --from=package /opt/package /opt/ipt
USER 10001
WORKDIR /var/lib/ipt
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["ipt"]
CMD ["serve"]
