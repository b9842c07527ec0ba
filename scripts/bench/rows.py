"""The rows that are compared with a limit: each pair is measured one beside the other, again and again."""

import glob
import hashlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time

import lab
import references
import report
from references import UNKNOWN_KEY, pgbench, wrk

CONNECTIONS = 64
POOL = 8
WRITERS = 16
NEW_VALUES = {1: "gen_random_uuid()", 2: "md5(random()::text) || md5(random()::text)"}


class Bench:
    """What all rows use."""

    def __init__(self, cluster, brief):
        self.cluster, self.brief = cluster, brief
        self.seconds = 1 if brief else 2
        self.rounds = 1 if brief else 7
        self.nginx = references.Nginx()
        self.sql = references.statements(cluster)
        self.plans = {}

    def pairs(self, ours, theirs, rounds=None):
        """Both in turn, each beginning every other time: two lists."""
        first, second = [], []
        for number in range(rounds or self.rounds):
            if number % 2:
                second.append(theirs())
                first.append(ours())
            else:
                first.append(ours())
                second.append(theirs())
        return first, second

    def asks(self, server, method, path, key="", body="", connections=CONNECTIONS, refused=False):
        return lambda: wrk(server.address, [(method, path, key, body)], connections, self.seconds, refused)["per_second"]

    def nginx_asks(self):
        return lambda: wrk(self.nginx.address, [("GET", "/health", "", "")], CONNECTIONS, self.seconds)["per_second"]

    def runs(self, database, name, clients=POOL, instead=None):
        return lambda: pgbench(self.cluster, database, self.sql[name], clients, self.seconds, instead)


def expect(server, status, method, path, key=None):
    """What is about to be measured is what it should be."""
    said, body = server.ask(method, path, key)
    assert said == status, (method, path, said, body)
    return body


def health(bench):
    server, _, _ = lab.database_with(bench.cluster)
    assert expect(server, 200, "GET", "/health") == lab.ask(bench.nginx.address, "GET", "/health")[1]
    ours, theirs = bench.pairs(bench.asks(server, "GET", "/health"), bench.nginx_asks())
    report.compared("`GET /health`", "/s", ours, theirs, "nginx", 0.65)


def verify(bench):
    server, key, _ = lab.database_with(bench.cluster)
    expect(server, 204, "GET", "/auth/verify", key)
    ours, theirs = bench.pairs(bench.asks(server, "GET", "/auth/verify", key), bench.nginx_asks())
    report.compared("`GET /auth/verify`, key cached", "/s", ours, theirs, "nginx", 0.45)
    assert server.metric("cloacina_auth_cache_hits_total") > 100 * server.metric("cloacina_auth_cache_misses_total")


def list_10(bench):
    server, key, database = lab.database_with(bench.cluster, keys=9)
    assert len(json.loads(expect(server, 200, "GET", "/auth/keys?limit=10", key))["keys"]) == 10
    ours, theirs = bench.pairs(
        bench.asks(server, "GET", "/auth/keys?limit=10", key), bench.runs(database, "first page of 10")
    )
    report.compared("`GET /auth/keys?limit=10`, 10 keys", "/s", ours, theirs, "pgbench", 0.35)


def unknown_key(bench):
    server, _, database = lab.database_with(bench.cluster, keys=9)
    expect(server, 401, "GET", "/auth/verify", UNKNOWN_KEY)
    ours, theirs = bench.pairs(
        bench.asks(server, "GET", "/auth/verify", UNKNOWN_KEY, refused=True), bench.runs(database, "find")
    )
    report.compared("unknown key, 401", "/s", ours, theirs, "pgbench", 0.35)


def create(bench):
    server, key, _ = lab.database_with(bench.cluster)
    other, _, elsewhere = lab.database_with(bench.cluster)
    other.stop()
    ours, theirs = bench.pairs(
        bench.asks(server, "POST", "/auth/keys", key, '{"name":"bench"}', connections=WRITERS),
        bench.runs(elsewhere, "insert", WRITERS, NEW_VALUES),
    )
    report.compared(f"`POST /auth/keys`, {WRITERS} connections", "/s", ours, theirs, "pgbench", 0.60)


def list_1000(bench):
    server, key, database = lab.database_with(bench.cluster, keys=999)
    page = json.loads(expect(server, 200, "GET", "/auth/keys", key))
    assert len(page["keys"]) == 1000 and "next" not in page
    ours, theirs = bench.pairs(bench.asks(server, "GET", "/auth/keys", key), bench.runs(database, "first page of 1000"))
    report.compared("`GET /auth/keys`, 1,000 keys in one page", "/s", ours, theirs, "pgbench", 0.60)


def latency(bench):
    server, _, _ = lab.database_with(bench.cluster)

    def one_by_one(address):
        return lambda: wrk(address, [("GET", "/health", "", "")], 1, bench.seconds)["p50"]

    ours, theirs = bench.pairs(one_by_one(server.address), one_by_one(bench.nginx.address))
    report.compared("`GET /health`, one after another, p50", "µs", ours, theirs, "nginx", 1.3, at_least=False)


def first_answer(database_url, home):
    """Milliseconds from the start of the process to its first 200, asked without pause."""
    port = references.free_port()
    request = lab.request("GET", "/health")
    command = [lab.BINARY, "--home", home, "serve", "--bind", f"127.0.0.1:{port}", "--database-url", database_url]
    with open(f"{home}/stderr", "ab") as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, env={"PATH": os.environ["PATH"]})
    try:
        while True:
            if time.perf_counter() - began > 30 or process.poll() is not None:
                raise RuntimeError("a server does not start")
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as one:
                    one.sendall(request)
                    if one.recv(4096).startswith(b"HTTP/1.1 200 "):
                        return (time.perf_counter() - began) * 1000
            except ConnectionError:
                pass
    finally:
        lab.end(process, 15)


def cold_start(bench):
    server, _, database = lab.database_with(bench.cluster)
    server.stop()
    url = bench.cluster.url(database)

    def select_1():
        command = [f"{bench.cluster.bin}/psql", "-XAtqc", "select 1", url]
        began = time.perf_counter()
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        return (time.perf_counter() - began) * 1000

    ours, theirs = bench.pairs(lambda: first_answer(url, server.home), select_1, 5 if bench.brief else 31)
    report.bounded("start to first 200, migrated database", "ms", ours, 25)
    report.compared("the same, compared", "ms", ours, theirs, "`psql -c 'select 1'`", 2.0, at_least=False)


def memory(bench):
    server, key, _ = lab.database_with(bench.cluster, keys=9)
    # The sessions open in the background, and the first looks at the database are over.
    lab.wait_for("the pool", lambda: server.metric("cloacina_db_pool_size") == POOL)
    report.bounded("memory, idle", "MiB", [server.footprint()[0]], 8)

    over, seen = threading.Event(), []

    def watch():
        while not over.wait(0.05):
            seen.append(server.footprint()[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for path in ("/health", "/auth/verify", "/auth/keys?limit=10"):
            wrk(server.address, [("GET", path, key, "")], CONNECTIONS, bench.seconds)
    finally:
        over.set()
        watcher.join()
    report.bounded(f"memory, most at {CONNECTIONS} busy connections", "MiB", [max(seen)], 12)
    server.stop()

    server, key, _ = lab.database_with(bench.cluster, keys=9)
    idle = []
    try:
        for _ in range(1000):
            idle.append(lab.Connection(server.address))
            assert idle[-1].ask(lab.request("GET", "/auth/verify", key))[0] == 204
        assert server.metric("cloacina_http_connections_open") >= 1000
        report.bounded("memory, 1,000 idle connections", "MiB", [server.footprint()[0]], 48)
    finally:
        for one in idle:
            one.close()


def workflow_run(bench):
    """Tasks that end at once, beside the processes that each of them is: a supervisor, what becomes the command, and that."""
    tasks = 200 if bench.brief else 1000
    with tempfile.TemporaryDirectory() as package:
        os.chmod(package, 0o755)
        with open(f"{package}/package.toml", "w", encoding="utf-8") as file:
            file.write('[package]\nname = "bench"\nversion = "1.0.0"\n')
            file.writelines(f'[[tasks]]\nid = "t{number}"\ncommand = ["true"]\n' for number in range(tasks))
        user = ["--task-user", "nobody"] if os.geteuid() == 0 else []
        command = [lab.BINARY, "workflow", "run", package, "--task-slots", str(os.cpu_count()), *user]

        def ours():
            began = time.perf_counter()
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout
            assert f"({tasks} completed)" in done, done
            return tasks / (time.perf_counter() - began)

        def loop():
            began = time.perf_counter()
            for program, times in ((f"{lab.BINARY} --version", 2 * tasks), ("/bin/true", tasks)):
                each = ["xargs", "-P", str(os.cpu_count()), "-I{}", *program.split()]
                lines = "x\n" * times
                subprocess.run(each, input=lines, stdout=subprocess.DEVNULL, text=True, check=True)
            return tasks / (time.perf_counter() - began)

        ours, theirs = bench.pairs(ours, loop)
        report.compared("`workflow run`, tasks that end at once", "/s", ours, theirs, "the same processes", 0.5)


def binary_size(bench):
    def mib(path):
        return os.path.getsize(path) / 1024 / 1024

    report.bounded("size of the program", "MiB", [mib(lab.BINARY)], 5)
    static = glob.glob("target/dist/cloacinactl-*-linux-musl")
    if static:
        report.bounded("size of the static program", "MiB", [mib(max(static, key=os.path.getmtime))], 6.5)
    else:
        report.seen("size of the static program", "not built here (scripts/build-static.sh)", "", "", "6.5 MiB or less", None, None)


def two_servers(bench):
    """Two on one database: together they have the pools of both and the processors of one."""
    one, key, database = lab.database_with(bench.cluster, keys=9)
    two = lab.Server(bench.cluster.url(database))
    alone, together = [], []

    def ask(server, into):
        into.append(bench.asks(server, "GET", "/auth/keys?limit=10", key, connections=CONNECTIONS // 2)())

    for _ in range(bench.rounds):
        ask(one, alone)
        both = []
        threads = [threading.Thread(target=ask, args=(server, both)) for server in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(both) == 2, "one of the two could not be asked"
        together.append(sum(both))
    ratio = report.median([both / single for both, single in zip(together, alone)])
    report.seen(
        "two servers on one database, `GET /auth/keys?limit=10`",
        f"{report.median(together):,.0f}/s",
        f"{report.median(alone):,.0f}/s (one of them alone)",
        f"{ratio:.2f}",
        "shown",
        None,
        {"alone": alone, "together": together},
    )


ROWS = [health, verify, list_10, unknown_key, create, list_1000, latency, cold_start, memory, workflow_run, binary_size, two_servers]
