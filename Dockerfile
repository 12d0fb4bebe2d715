# The CPU build. From the folder of this file: docker build -t diffaug . && docker run --rm -v "$PWD/out:/home/user/out" diffaug
FROM python:3.11-slim

# gcc: torch compiles small kernels when it is asked to
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user

WORKDIR /home/user/diffaug
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c constraints.txt .

USER user
WORKDIR /home/user
ENTRYPOINT ["diffaug"]
CMD ["demo", "out/demo"]
