#!/usr/bin/env python3
"""Two builds of Backstay in turn, A B A B …: a first sync, increments, an unchanged cycle and a takeover.

    benches/versions.py OLD-BINARY NEW-BINARY [PAIRS]

Both daemons of a pair run on loopback. CPU seconds are user and system of both daemons, from /proc; wall seconds of a cycle run
from the command to the replica that shows it. Printed are medians, and the median of the ratios NEW/OLD pair by pair, which
holds when the machine's speed drifts. Nothing is asserted.

    FILES=20000 LARGE_MIB=256   what is replicated: small files, and one large file
    PORT=27543                  the first of two UDP ports
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = int(os.environ.get("FILES", 20000))
LARGE_MIB = int(os.environ.get("LARGE_MIB", 256))
PORT = int(os.environ.get("PORT", 27543))
TICKS = os.sysconf("SC_CLK_TCK")


def make_source(folder, rng):
    for n in range(FILES):
        sub = folder / f"{n // 500:04}"
        sub.mkdir(parents=True, exist_ok=True)
        (sub / f"f{n:06}").write_bytes(rng.randbytes(rng.randrange(200, 4000)))
    with open(folder / "large", "wb") as large:
        for _ in range(LARGE_MIB):
            large.write(rng.randbytes(1 << 20))


def change(folder, rng):
    """One file in a hundred rewritten, and one page in a hundred of the large file."""
    for n in rng.sample(range(FILES), FILES // 100):
        (folder / f"{n // 500:04}" / f"f{n:06}").write_bytes(rng.randbytes(rng.randrange(200, 4000)))
    with open(folder / "large", "r+b") as large:
        for page in rng.sample(range(LARGE_MIB * 256), LARGE_MIB * 256 // 100):
            large.seek(page * 4096)
            large.write(rng.randbytes(4096))


class Pair:
    """An active and a standby site of one build."""

    def __init__(self, binary, work, source):
        self.binary, self.work, self.daemons = binary, Path(work), {}
        for number, name in enumerate(("east", "west")):
            self.run(name, "init", "--name", name, "--listen", f"127.0.0.1:{PORT + number}")
            self.serve(name)
        key = self.run("west", "pair", "key", "--endpoint", f"127.0.0.1:{PORT + 1}").strip()
        self.run("east", "pair", "join", key)
        plan = {
            "apiVersion": "backstay.dev/v1alpha1",
            "kind": "ReplicationPlan",
            "metadata": {"name": "shop"},
            "spec": {"pair": "west", "volumes": [{"name": "data", "path": str(source)}]},
        }
        file = self.work / "plan.yaml"
        file.write_text(json.dumps(plan))
        self.run("east", "plan", "apply", "-f", str(file))

    def run(self, name, *args):
        command = [self.binary, "--site", str(self.work / name), *args]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    def serve(self, name):
        log = open(self.work / f"{name}.log", "ab")
        command = [self.binary, "--site", str(self.work / name), "serve"]
        self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log)
        while subprocess.run([self.binary, "--site", str(self.work / name), "status"], capture_output=True).returncode:
            time.sleep(0.05)

    def cpu(self):
        def of(process):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / TICKS

        return sum(of(process) for process in self.daemons.values())

    def cycle(self):
        cpu, began = self.cpu(), time.monotonic()
        point = json.loads(self.run("east", "sync", "shop", "-o", "json"))
        acked = time.monotonic() - began
        while json.loads(self.run("west", "status", "shop", "-o", "json")).get("appliedRestorePoint") != point["id"]:
            time.sleep(0.02)
        wall = time.monotonic() - began
        return {"acked s": acked, "applied s": wall, "CPU s": self.cpu() - cpu, "wire bytes": point["wireBytes"]}

    def takeover(self):
        self.daemons.pop("east").kill()
        began = time.monotonic()
        report = json.loads(self.run("west", "promote", "shop", "-o", "json"))
        return {"command s": time.monotonic() - began, "rtoSeconds": report["rtoSeconds"]}

    def stop(self):
        for process in self.daemons.values():
            process.kill()
            process.wait()


def trial(binary, seed):
    rng = random.Random(seed)
    work = Path(tempfile.mkdtemp(prefix="backstay-versions-"))
    pair = None
    try:
        source = work / "source"
        source.mkdir()
        make_source(source, rng)
        os.sync()
        time.sleep(3)  # what was written within two seconds of a scan is read again by the next
        pair = Pair(binary, work, source)
        figures = {"first sync": pair.cycle()}
        time.sleep(3)
        figures["unchanged"] = pair.cycle()
        change(source, rng)
        time.sleep(3)
        figures["1 % changed"] = pair.cycle()
        figures["takeover"] = pair.takeover()
        return figures
    finally:
        if pair:
            pair.stop()
        shutil.rmtree(work)


def main():
    old, new = (os.path.abspath(path) for path in sys.argv[1:3])
    pairs = int(sys.argv[3]) if len(sys.argv) > 3 else 10
    trials = []
    for seed in range(pairs):
        order = [("old", old), ("new", new)]
        if seed % 2:
            order.reverse()
        trials.append({name: trial(binary, seed) for name, binary in order})
        print(f"pair {seed + 1} of {pairs} done", file=sys.stderr, flush=True)
    print(f"{'case':<14}{'figure':<14}{'old median':>14}{'new median':>14}{'new/old':>10}")
    for case in trials[0]["old"]:
        for figure in trials[0]["old"][case]:
            olds, news = ([t[side][case][figure] for t in trials] for side in ("old", "new"))
            ratio = statistics.median(b / a if a else 1.0 for a, b in zip(olds, news))
            print(f"{case:<14}{figure:<14}{statistics.median(olds):>14.3f}{statistics.median(news):>14.3f}{ratio:>10.3f}")


if __name__ == "__main__":
    main()
