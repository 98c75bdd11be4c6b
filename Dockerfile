# The daemon, as an unprivileged user, on the host of the HSM and with the vendor's PKCS#11 module mounted. How to set it up
# and run it: docs/install.md, "In a container".
#
# All processes run as one user: front and workers are separated by seccomp and by being undumpable, not by users. For a
# software token in tests: --build-arg PACKAGES=softhsm2.

FROM debian:12-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv gcc libc6-dev libssl-dev ca-certificates
WORKDIR /src
COPY requirements.lock ./
# Every downloaded file is checked against the lock; later steps install nothing else.
RUN python3 -m venv /build \
 && /build/bin/pip download --require-hashes --only-binary :all: --dest /wheels --requirement requirements.lock \
 && /build/bin/pip install --no-index --find-links /wheels scikit-build-core cmake ninja
COPY pyproject.toml CMakeLists.txt LICENSE README.md ./
COPY hsmd ./hsmd
# A second environment holds only what is needed at run time, without compilers.
RUN PATH=/build/bin:$PATH pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
 && python3 -m venv /opt/hsmd \
 && /opt/hsmd/bin/pip install --no-index --find-links /wheels "hsmd[daemon,postgresql]"

FROM debian:12-slim
ARG PACKAGES=""
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 libseccomp2 $PACKAGES \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 990 --user-group --home-dir /var/lib/hsmd --shell /usr/sbin/nologin hsmd \
 && install --directory --owner hsmd --group hsmd --mode 0700 /var/lib/hsmd
COPY --from=build /opt/hsmd /opt/hsmd
ENV PATH=/opt/hsmd/bin:/usr/bin:/bin
USER hsmd
WORKDIR /var/lib/hsmd
VOLUME /var/lib/hsmd
EXPOSE 7440
STOPSIGNAL SIGTERM
ENTRYPOINT ["hsmd"]
CMD ["serve", "--config", "/etc/hsmd/hsmd.toml"]
