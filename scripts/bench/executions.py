"""The rows of executions: what tasks cost beside their processes, how soon they start, and what stands in their way."""

import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import threading
import time

import lab
import report

SLOTS = 2 * os.cpu_count()
TENANT = "/tenants/bench"
# Prints when it runs, as seconds.
DATE = ["date", "+%s.%N"]


def packed(name, tasks, head=""):
    """An archive of a workflow: {id: (command, ids of the tasks before it)}."""
    lines = [f'[package]\nname = "{name}"\nversion = "1.0.0"\n{head}\n']
    for task, (command, before) in tasks.items():
        lines.append(f'[[tasks]]\nid = "{task}"\ncommand = {json.dumps(command)}\ndependencies = {json.dumps(before)}\n')
    manifest = "".join(lines).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package.toml")
        entry.size, entry.mode = len(manifest), 0o644
        archive.addfile(entry, io.BytesIO(manifest))
    return out.getvalue()


def chain(command, length):
    return {f"t{n}": (command, [f"t{n - 1}"] if n else []) for n in range(length)}


class Site:
    """A server with slots, a tenant, and workflows."""

    def __init__(self, cluster, slots=SLOTS):
        self.cluster, self.database = cluster, cluster.database()
        user = ["--task-user", "nobody"] if os.geteuid() == 0 else []
        # The lab's PostgreSQL asks for no password.
        flags = ["--task-slots", str(slots), "--sandbox", "partial", *user]
        self.server = lab.Server(cluster.url(self.database), *flags)
        self.key = self.server.key()
        self.tenant("bench")
        lab.wait_for("a host", lambda: self.sql("SELECT count(*) FROM cloacina_hosts WHERE obstacle IS NULL") == "1")

    def again(self):
        """Another server in the place of this one, with sessions of its own."""
        home, flags = self.server.home, self.server.flags
        self.server.stop()
        self.server = lab.Server(self.cluster.url(self.database), *flags, home=home)

    def sql(self, text):
        return self.cluster.sql(self.database, text)

    def tenant(self, name):
        status, body = self.server.ask("POST", "/tenants", self.key, {"schema_name": name})
        assert status == 201, (status, body)

    def upload(self, name, tasks, head="", tenant=TENANT):
        archive = packed(name, tasks, head)
        request = f"POST {tenant}/workflows HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {self.key}\r\nContent-Type: application/gzip\r\n"
        connection = lab.Connection(self.server.address)
        status, body = connection.ask(request.encode() + f"Content-Length: {len(archive)}\r\n\r\n".encode() + archive)
        connection.close()
        assert status == 201, (status, body)

    def execute(self, name, query="", tenant=TENANT, connection=None):
        path = f"{tenant}/workflows/{name}/execute{query}"
        asked = lab.request("POST", path, self.key)
        status, body = connection.ask(asked) if connection else self.server.ask("POST", path, self.key, timeout=90)
        assert status == 202, (status, body)
        return json.loads(body)

    def log(self, execution, task):
        status, body = self.server.ask("GET", f"{TENANT}/executions/{execution}/tasks/{task}/log", self.key)
        assert status == 200, (status, body)
        return body.decode()

    def run(self, name, executions):
        """Seconds from the first request to the end of the last of so many executions."""
        began = time.perf_counter()
        threads = [threading.Thread(target=self.execute_some, args=(name, executions, 4, part)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lab.wait_for("all to end", self.is_idle, 300)
        took = time.perf_counter() - began
        failed = self.sql("SELECT count(*) FROM cloacina_executions WHERE status NOT IN ('Completed', 'Pending', 'Running')")
        assert failed == "0", failed
        return took

    def is_idle(self):
        """Asked over HTTP: a psql for each look would cost as much as a task."""
        for name in ("Pending", "Running"):
            status, body = self.server.ask("GET", f"{TENANT}/executions?status={name}&limit=1", self.key)
            assert status == 200, (status, body)
            if json.loads(body)["executions"]:
                return False
        return True

    def execute_some(self, name, executions, parts, part):
        connection = lab.Connection(self.server.address)
        for number in range(executions):
            if number % parts == part:
                self.execute(name, connection=connection)
        connection.close()


def processes(tasks):
    """Tasks a second of a loop that starts what each of them is: a supervisor, what becomes the command, and the command."""
    began = time.perf_counter()
    for program, times in ((f"{lab.BINARY} --version", 2 * tasks), ("/bin/true", tasks)):
        each = ["xargs", "-P", str(os.cpu_count()), "-I{}", *program.split()]
        subprocess.run(each, input="x\n" * times, stdout=subprocess.DEVNULL, text=True, check=True)
    return tasks / (time.perf_counter() - began)


def tasks_that_end_at_once(bench):
    site = Site(bench.cluster)
    true = ["true"]
    shapes = [
        ("one", {"only": (true, [])}, "executions of one task"),
        ("ten", chain(true, 10), "executions of a chain of 10 tasks"),
        ("hundred", {f"t{n}": (true, []) for n in range(100)}, "executions of 100 tasks side by side"),
    ]
    tasks = 100 if bench.brief else 400
    for name, workflow, what in shapes:
        site.upload(name, workflow)
        executions = max(tasks // len(workflow), 1)
        total = executions * len(workflow)
        rounds = 1 if bench.brief else 3
        ours, theirs = bench.pairs(lambda: total / site.run(name, executions), lambda: processes(total), rounds)
        report.compared(f"{what}, `true`, tasks", "/s", ours, theirs, "the same processes", 0.4)


def chain_of_forty(bench):
    """What a task costs beside its command, where each waits for the one before."""
    site = Site(bench.cluster)
    site.upload("forty", chain(["sleep", "0.01"], 40))
    began = time.perf_counter()
    for _ in range(40):
        subprocess.run(["sleep", "0.01"], check=True)
    alone = (time.perf_counter() - began) / 40
    took = []
    for _ in range(1 if bench.brief else 5):
        began = time.perf_counter()
        assert site.execute("forty", "?wait=60")["status"] == "Completed"
        took.append(((time.perf_counter() - began) / 40 - alone) * 1000)
    report.bounded("a chain of 40 tasks of 10 ms: beside its command, a task", "ms", took, 8)


def starts(bench):
    """When the first command of an execution runs, and the next one after it."""
    site = Site(bench.cluster)
    site.upload("two", chain(DATE, 2))
    first, hops = [], []
    for _ in range(20 if bench.brief else 200):
        asked = time.time()
        execution = site.execute("two", "?wait=30")
        assert execution["status"] == "Completed", execution
        times = [float(site.log(execution["execution_id"], task)) for task in ("t0", "t1")]
        first.append((times[0] - asked) * 1000)
        hops.append((times[1] - times[0]) * 1000)
    first.sort()
    report.bounded("from the request to the first command, p50", "ms", [report.median(first)], 10)
    report.bounded("from the request to the first command, p99", "ms", [first[int(len(first) * 0.99)]], 25)
    report.bounded("from one command to the next one, with its own run", "ms", hops, 6)


def accepted(bench):
    """Durable 202s beside the same statements from pgbench. No task starts meanwhile: the workflow is paused."""
    site = Site(bench.cluster)
    site.upload("one", {"only": (["true"], [])})
    site.sql("UPDATE cloacina_workflows SET is_paused = true; UPDATE cloacina_tenants SET max_pending_executions = NULL")
    script = statements_of(site)
    path = f"{TENANT}/workflows/one/execute"
    asks = bench.asks(site.server, "POST", path, site.key, "{}", connections=16)

    def pgbench():
        with tempfile.NamedTemporaryFile("w", dir=lab.SCRATCH, suffix=".sql", encoding="utf-8") as file:
            file.write(script)
            file.flush()
            command = [f"{site.cluster.bin}/pgbench", "--no-vacuum", "-M", "prepared", "-c", "16", "-j", str(os.cpu_count())]
            command += ["-T", str(bench.seconds), "-f", file.name]
            command += ["-h", site.cluster.host, "-p", str(site.cluster.port), "-U", "postgres", site.database]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
        found = re.search(r"^tps = ([0-9.]+) ", done.stdout, re.M)
        if done.returncode or not found:
            raise RuntimeError(f"pgbench: {done.stdout}{done.stderr}")
        return float(found[1])

    ours, theirs = bench.pairs(asks, pgbench)
    report.compared("`POST …/execute`, 16 connections", "/s", ours, theirs, "pgbench", 0.5)


def statements_of(site):
    """What PostgreSQL is asked for one request, with a new id each time."""
    site.sql(f"ALTER DATABASE {site.database} SET log_statement = 'all'")
    other = lab.Server(site.cluster.url(site.database))
    with open(f"{site.cluster.place}/log", encoding="utf-8") as log:
        log.seek(0, os.SEEK_END)
        status, body = other.ask("POST", f"{TENANT}/workflows/one/execute", site.key, {})
        assert status == 202, (status, body)
        text = log.read()
    other.stop()
    site.sql(f"ALTER DATABASE {site.database} RESET log_statement")
    id = json.loads(body)["execution_id"]
    executed = re.findall(r"LOG:  execute [^:]*: (.*\n(?:\t.*\n)*).*DETAIL:  parameters: (.*)\n", text.replace("\n\t", "\n\t"))
    wanted = [(sql, given) for sql, given in executed if "cloacina_" in sql and "cloacina_attempts" not in sql and "cloacina_hosts WHERE id" not in sql]
    lines = ["BEGIN;"]
    for sql, given in wanted:
        values = dict(re.findall(r"\$(\d+) = (NULL|'(?:[^']|'')*')", given))
        sql = re.sub(r"\$(\d+)", lambda found: "gen_random_uuid()" if values[found[1]] == f"'{id}'" else values[found[1]], sql.replace("\n\t", "\n"))
        lines.append(sql.strip() + ";")
    assert any("INSERT INTO cloacina_executions" in line for line in lines), executed
    return "\n".join([*lines, "COMMIT;"]) + "\n"


def backlog(bench):
    """How soon a tenant's only task starts behind another tenant's backlog, and behind tasks that hold all it may."""
    site = Site(bench.cluster, slots=4)
    site.tenant("other")
    site.upload("short", {"only": (DATE, [])}, tenant="/tenants/other")
    site.upload("quick", {"only": (["true"], [])})
    ready = 2_000 if bench.brief else 100_000
    site.upload("paused", {"only": (["true"], [])})
    site.sql("UPDATE cloacina_tenants SET max_pending_executions = NULL")
    site.execute("quick", "?wait=30")
    site.sql(
        "WITH made AS (INSERT INTO cloacina_executions (id, tenant, workflow, version, context) "
        "SELECT gen_random_uuid(), id, 'quick', '1.0.0', '{}' FROM cloacina_tenants, generate_series(1, %d) WHERE name = 'bench' RETURNING *), "
        "tasks AS (INSERT INTO cloacina_tasks (execution, number, id, dependencies) SELECT id, 0, 'only', '{}' FROM made) "
        "INSERT INTO cloacina_queue (tenant, workflow, is_start, created_at, execution, task, timeline) "
        "SELECT made.tenant, 'quick', true, made.created_at, made.id, -1, (SELECT max(timeline) FROM cloacina_hosts) FROM made" % ready
    )
    behind = [started(site, "short") for _ in range(5 if bench.brief else 30)]
    left = int(site.sql("SELECT count(*) FROM cloacina_queue"))
    assert left > 0, "the backlog was gone before the end"
    report.bounded(f"a tenant's task starts behind {ready:,} of another tenant", "ms", behind, 250)
    site.server.stop()

    site = Site(bench.cluster, slots=4)
    site.tenant("other")
    site.upload("short", {"only": (DATE, [])}, tenant="/tenants/other")
    site.upload("long", {"only": (["sleep", "600"], [])})
    executions = [site.execute("long")["execution_id"] for _ in range(20)]
    lab.wait_for("all that it may", lambda: site.sql("SELECT count(*) FROM cloacina_attempts WHERE ended_at IS NULL") == "3")
    behind = [started(site, "short") for _ in range(5 if bench.brief else 30)]
    report.bounded("a tenant's task starts beside long ones of another tenant", "ms", behind, 250)
    for execution in executions:
        site.server.ask("POST", f"{TENANT}/executions/{execution}/cancel", site.key)
    lab.wait_for("their end", lambda: site.sql("SELECT count(*) FROM cloacina_attempts WHERE ended_at IS NULL") == "0", 60)


def started(site, name):
    """Milliseconds from the request to the command, of another tenant's workflow that prints when it runs."""
    asked = time.time()
    execution = site.execute(name, "?wait=30", tenant="/tenants/other")
    assert execution["status"] == "Completed", execution
    path = f"/tenants/other/executions/{execution['execution_id']}/tasks/only/log"
    return (float(site.server.ask("GET", path, site.key)[1]) - asked) * 1000


ROWS = [tasks_that_end_at_once, chain_of_forty, starts, accepted, backlog]
