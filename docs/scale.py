#!/usr/bin/env python3
"""What a version costs for models and fleets of several sizes, from measured constants.

    python3 docs/scale.py                      the tables of docs/scale.md
    python3 docs/scale.py --cores 64 --disk 6  the same for other hosts
    python3 docs/scale.py --check docs/scale.md
"""

import argparse
import math
import pathlib
import sys

# Measured: docs/benchmarks.md. A step of the recorded run, and `bench --system` on a pair of 1 GiB.
PATCH_SHARE = 141_035 / 45_426_432  # bytes of a patch of those of a bf16 checkpoint; 0.70 % of the weights change
PUBLISH_CPU = 1.10  # seconds of one processor for each GiB: compare, encode, decode again, hash
PULL_CPU = 0.98  # the same for a pull in place: decode, hash, write, sync
PUBLISH_REQUESTS = {"put": 4, "get": 6}  # at most, whatever the length of the stream (tests/store/requests.rs)
PULL_REQUESTS = {"put": 0, "get": 6}
POLL_REQUESTS = {"put": 0, "get": 1}

# Assumed: list prices of S3 Standard in us-east-1, dollars for a thousand requests. Traffic to machines of the same
# region is free; traffic to the internet or another region is not, and is not counted here.
PRICE = {"put": 0.005, "get": 0.0004}

MODELS = {"7B": 7e9, "70B": 70e9, "1T": 1e12}
FLEETS = (1, 10, 100, 1000)
GIB = 2**30


def size(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if count < 1000 else f"{count:,.0f} TB"


def seconds(value):
    return f"{value:.2g} s" if value < 100 else f"{value:,.0f} s"


def dollars(value):
    return f"${value:.2f}" if value < 100 else f"${value:,.0f}"


def cost(requests, times):
    return sum(PRICE[kind] * count for kind, count in requests.items()) * times / 1000


def markdown(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def models(hosts):
    """A version of each model: bytes, and the time of each part."""
    rows = []
    for name, weights in MODELS.items():
        full = 2 * weights
        share = full / hosts.hosts(weights)
        patch = full * PATCH_SHARE
        line = hosts.gbit * 1e9 / 8
        rows.append(
            [
                name,
                size(full),
                str(hosts.hosts(weights)),
                size(patch),
                seconds(PUBLISH_CPU * share / GIB / hosts.cores),
                seconds(patch / hosts.hosts(weights) / line),
                seconds(patch / line),
                seconds(max(PULL_CPU * full / GIB / hosts.cores, full / (hosts.disk * 1e9))),
                seconds(full / line),
            ]
        )
    heads = [
        "model",
        "checkpoint",
        "publishing hosts",
        "patch",
        "encode",
        "upload",
        "download",
        "apply",
        "to download the checkpoint instead",
    ]
    return markdown(heads, rows)


def fleets(hosts):
    """A thousand versions of the 7B model: what replicas take from the bucket."""
    patch = 2 * MODELS["7B"] * PATCH_SHARE
    day = 86_400 / hosts.poll
    rows = []
    for replicas in FLEETS:
        rows.append(
            [
                f"{replicas:,}",
                size(1000 * replicas * patch),
                size(1000 * replicas * 2 * MODELS["7B"]),
                f"{1000 * replicas * sum(PULL_REQUESTS.values()):,}",
                dollars(cost(PULL_REQUESTS, 1000 * replicas)),
                dollars(cost(POLL_REQUESTS, replicas * day)),
                size(replicas * patch / hosts.poll) + "/s",
            ]
        )
    heads = [
        "replicas",
        "bytes of patches",
        "bytes of checkpoints instead",
        "requests",
        "their price",
        "price of a day of polling",
        "out of the bucket, if all pull at once within a poll",
    ]
    publish = dollars(cost(PUBLISH_REQUESTS, 1000))
    return markdown(heads, rows) + f"\n\nThe thousand publishes cost {publish} in requests."


class Hosts(argparse.Namespace):
    def hosts(self, weights):
        """Publishing hosts: as many as hold the checkpoint with four times its bytes in memory."""
        return max(1, math.ceil(2 * weights * 4 / (self.memory * 1e9)))


def tables(hosts):
    return f"{models(hosts)}\n\n{fleets(hosts)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=float, default=32, help="processors of a host")
    parser.add_argument("--gbit", type=float, default=25, help="of a host to the bucket, Gbit/s")
    parser.add_argument("--disk", type=float, default=3, help="of a host's disk, GB/s written")
    parser.add_argument("--memory", type=float, default=1000, help="of a publishing host, GB")
    parser.add_argument("--poll", type=float, default=5, help="seconds between polls")
    parser.add_argument("--check", type=pathlib.Path, help="fail if this page has other tables")
    hosts = parser.parse_args(namespace=Hosts())
    if hosts.check is None:
        print(tables(hosts))
    elif tables(hosts) not in hosts.check.read_text(encoding="utf-8"):
        sys.exit(f"{hosts.check} has other tables: run python3 docs/scale.py and paste what it prints")


if __name__ == "__main__":
    main()
