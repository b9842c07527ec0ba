"""Instructions for each request, counted by callgrind: the same on a busy machine as on a quiet one."""

import glob
import os
import re
import shutil
import subprocess

import lab
import report
from references import UNKNOWN_KEY

REQUESTS = 300


def count(cluster):
    place = os.path.abspath(f"{report.TARGET}/callgrind")
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    print("| request | instructions |\n|---|---|")
    for keys, asks in (
        (9, [
            ("`GET /health`", 200, "GET", "/health", "key", None),
            ("`GET /auth/verify`, key cached", 204, "GET", "/auth/verify", "key", None),
            ("`GET /auth/keys?limit=10`, 10 keys", 200, "GET", "/auth/keys?limit=10", "key", None),
            ("unknown key, 401", 401, "GET", "/auth/verify", UNKNOWN_KEY, None),
            ("`POST /auth/keys`", 201, "POST", "/auth/keys", "key", {"name": "bench"}),
        ]),
        (999, [("`GET /auth/keys`, 1,000 keys", 200, "GET", "/auth/keys", "key", None)]),
    ):
        out = f"{place}/{keys + 1}-keys"
        server, key = server_under_callgrind(cluster, keys, out)
        for name, status, method, path, sent, body in asks:
            request = lab.request(method, path, key if sent == "key" else sent, body)
            print(f"| {name} | {each(server, request, status, out):,.0f} |", flush=True)
        server.stop()


def server_under_callgrind(cluster, keys, out):
    server, key, name = lab.database_with(cluster, keys)
    server.stop()
    before = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}"]
    flags = ["--workers", "1", "--database-timeout", "60s"]
    return lab.Server(cluster.url(name), *flags, home=server.home, before=before), key


def control(server, *arguments):
    command = ["callgrind_control", *arguments, str(server.process.pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def each(server, request, status, out):
    """What one more request costs: so many, and twice so many, on one connection."""
    connection = lab.Connection(server.address, 120)

    def ask(times):
        for _ in range(times):
            said, body = connection.ask(request)
            assert said == status, (said, body)

    ask(50)
    totals = []
    for times in (REQUESTS, 2 * REQUESTS):
        control(server, "--zero")
        ask(times)
        before = set(glob.glob(f"{out}.*"))
        control(server, "--dump")
        (new,) = set(glob.glob(f"{out}.*")) - before
        totals.append(instructions_in(new))
    connection.close()
    return (totals[1] - totals[0]) / REQUESTS


def instructions_in(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return int(re.search(r"^totals: (\d+)", file.read(), re.M)[1])
