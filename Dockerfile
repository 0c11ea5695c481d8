# syntax=docker/dockerfile:1

# The build is the one that everybody runs, on a machine that has Go and make.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH VERSION=dev
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH make build VERSION="$VERSION"
# Folders that the user below may write. A new volume takes over their owner.
RUN install -d -m 0700 /image/data && install -d -m 1777 /image/tmp

# One static program, the authorities of TLS, and nothing else: no shell, no
# libraries, no package manager.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /image/ /
COPY --from=build /src/bin/keyledger /keyledger
USER 65532:65532
WORKDIR /data
VOLUME /data
# In a container loopback is nobody's. Listening beyond it needs --tls-cert and
# --tls-key, or --insecure-http where something else keeps the wire safe.
ENV KEYLEDGER_DATA=/data KEYLEDGER_LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=6s --start-period=60s --start-interval=1s --retries=3 CMD ["/keyledger", "health"]
ENTRYPOINT ["/keyledger"]
CMD ["serve"]
