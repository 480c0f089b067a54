# The image of the daemon and of its command line.
#   docker build -t ghcr.io/backstay/backstay:0.1.0 .
FROM rust:1.95.0-slim-trixie AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY crates crates
# Not built, but members of the workspace.
COPY tests tests
COPY benches benches
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p backstay && cp target/release/backstay /usr/local/bin/backstay

# A shell and coreutils, for volumes whose snapshots are made by a command.
FROM debian:13.6-slim
LABEL org.opencontainers.image.title="backstay" \
    org.opencontainers.image.description="Keeps a standby cluster ready to take over from an active one across a WAN" \
    org.opencontainers.image.source="https://github.com/backstay/backstay" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /usr/share/doc/backstay/LICENSE
COPY --from=build /usr/local/bin/backstay /usr/local/bin/backstay
# Root: it reads volumes of any owner and gives replicas theirs. config/deploy leaves it the capabilities for that alone.
USER 0:0
EXPOSE 7443/udp
ENTRYPOINT ["backstay"]
CMD ["serve"]
