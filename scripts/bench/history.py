"""How the cost of executions grows: with those that have ended, and beside a transaction that stays open."""

import json
import os
import re
import subprocess
import time

import lab
import report
from executions import TENANT, Site
from growth import grown
from references import wrk

PAGE = 100
# A transaction of ten minutes beside a hundred tasks a second.
MEANWHILE = 60_000

# What ended executions leave, as one that has really run left it: every tenth with a log, every twentieth failed.
NEW = """CREATE UNLOGGED TABLE new AS SELECT n, gen_random_uuid() AS id, gen_random_uuid() AS attempt,
    n * interval '7 s' AS age, CASE WHEN n % 20 = 0 THEN 'Failed' ELSE 'Completed' END AS status FROM generate_series(1, {count}) AS n"""
FILL = [
    """INSERT INTO cloacina_executions (id, tenant, workflow, version, status, context, error, created_at, started_at, completed_at,
        last_event, timeline)
    SELECT new.id, tenant, workflow, version, new.status, context, CASE WHEN new.status = 'Failed' THEN 'task only failed: exit code 1' END,
        created_at - age, started_at - age, completed_at - age, last_event, timeline FROM cloacina_executions AS done, new WHERE done.id = '{id}'""",
    """INSERT INTO cloacina_tasks (execution, number, id, dependencies, status, attempts, attempt, started_at, completed_at, exit_code)
    SELECT new.id, number, done.id, dependencies, new.status, attempts, new.attempt, started_at - age, completed_at - age, exit_code
    FROM cloacina_tasks AS done, new WHERE execution = '{id}'""",
    """INSERT INTO cloacina_attempts (id, tenant, execution, task, number, host, boot, timeline, claimed_at, started_at, ended_at, exit_code,
        log_bytes, log_kept_bytes)
    SELECT new.attempt, tenant, new.id, task, number, host, boot, timeline, claimed_at - age, started_at - age, ended_at - age, exit_code,
        CASE WHEN n % 10 = 0 THEN log_bytes ELSE 0 END, CASE WHEN n % 10 = 0 THEN log_kept_bytes ELSE 0 END
    FROM cloacina_attempts AS done, new WHERE execution = '{id}'""",
    """INSERT INTO cloacina_events (execution, number, event_type, event_data, created_at)
    SELECT new.id, number, event_type, event_data, created_at - age FROM cloacina_events AS done, new WHERE execution = '{id}'""",
    """INSERT INTO cloacina_log_pieces SELECT new.attempt, at, bytes FROM cloacina_log_pieces AS done, new
    WHERE n % 10 = 0 AND done.attempt = (SELECT attempt FROM cloacina_tasks WHERE execution = '{id}')""",
]
# What so many executions go through until they have ended, each step with the rows that it leaves dead.
LIVE = [
    "UPDATE new SET status = 'Pending'",
    FILL[0].replace("completed_at - age", "NULL").replace("started_at - age", "NULL").replace("- age", ""),
    FILL[1].replace("new.status", "'Ready'").replace("completed_at - age", "NULL").replace("started_at - age", "NULL"),
    """INSERT INTO cloacina_queue (tenant, workflow, is_start, created_at, execution, task, timeline)
    SELECT tenant, workflow, true, created_at, new.id, -1, timeline FROM cloacina_executions AS made JOIN new ON new.id = made.id""",
    "DELETE FROM cloacina_queue WHERE execution IN (SELECT id FROM new)",
    "UPDATE cloacina_executions SET status = 'Running', started_at = created_at WHERE id IN (SELECT id FROM new)",
    "UPDATE cloacina_tasks SET status = 'Running' WHERE execution IN (SELECT id FROM new)",
    FILL[2].replace("ended_at - age", "NULL").replace("- age", ""),
    FILL[3].replace("- age", ""),
    "UPDATE cloacina_attempts SET ended_at = claimed_at WHERE execution IN (SELECT id FROM new)",
    "UPDATE cloacina_tasks SET status = 'Completed' WHERE execution IN (SELECT id FROM new)",
    "UPDATE cloacina_executions SET status = 'Completed', completed_at = created_at WHERE id IN (SELECT id FROM new)",
]
EXPLAIN = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
}


class Grown(Site):
    """A server with so many executions that have ended, each with its task, attempt and events."""

    def __init__(self, cluster, count):
        super().__init__(cluster)
        self.count, self.costs = count, {}
        self.upload("one", {"only": (["echo", "done"], [])})
        self.upload("paused", {"only": (["true"], [])})
        self.sql("UPDATE cloacina_workflows SET is_paused = true WHERE name = 'paused'")
        self.done = self.execute("one", "?wait=30")["execution_id"]
        self.each(NEW.format(count=count - 1), *FILL, "DROP TABLE new")
        self.sql("VACUUM ANALYZE")
        self.middle = self.sql(f"SELECT id FROM cloacina_executions ORDER BY created_at OFFSET {count // 20 * 10 + 1} LIMIT 1")
        # As the server would say where the last page begins.
        self.last_page = self.sql(
            "SELECT lpad(to_hex((extract(epoch FROM created_at) * 1000000)::bigint), 16, '0') || replace(id::text, '-', '') "
            f"FROM cloacina_executions ORDER BY created_at, id OFFSET {PAGE} LIMIT 1"
        )

    def each(self, *statements):
        for statement in statements:
            self.sql("SET synchronous_commit = off; " + statement.format(id=self.done))

    def reads(self):
        all_of_them = f"{TENANT}/executions"
        one = f"{all_of_them}/{self.middle}"
        return {
            "the first page of executions": f"{all_of_them}?limit={PAGE}",
            "the last page of executions": f"{all_of_them}?limit={PAGE}&after={self.last_page}",
            "the failed executions of a workflow": f"{all_of_them}?limit={PAGE}&status=Failed&workflow=one",
            "one execution": one,
            "an execution's events": f"{one}/events",
            "an execution's log": f"{one}/tasks/only/log",
        }

    def changes(self):
        connection = lab.Connection(self.server.address)

        def run():
            ended = self.execute("one", "?wait=30", connection=connection)
            assert ended["status"] == "Completed", ended

        return {
            "`execute`": lambda: self.execute("paused", connection=connection),
            "an execution of one task, to its end": run,
        }

    def measure(self, seconds, changes):
        for what, path in self.reads().items():
            self.note(what, wrk(self.server.address, [("GET", path, self.key, "")], 1, seconds)["p50"])
        for what, change in self.changes().items():
            took = []
            for _ in range(changes):
                began = time.perf_counter()
                change()
                took.append((time.perf_counter() - began) * 1e6)
            self.note(what, report.median(took))

    def note(self, what, microseconds):
        self.costs.setdefault(what, []).append(microseconds)

    def explained(self):
        """{what: {statement: (pages, rows)}}: what PostgreSQL has touched for each, by what it says itself."""
        settings = "; ".join(f"ALTER DATABASE {self.database} SET {name} = '{value}'" for name, value in EXPLAIN.items())
        self.sql(settings)
        self.renew()
        found = {}
        for what, path in self.reads().items():
            found[what] = self.statements(lambda path=path: self.server.ask("GET", path, self.key), 8)
        for what, change in self.changes().items():
            found[what] = self.statements(change, 30)
        self.sql(f"ALTER DATABASE {self.database} RESET ALL")
        self.renew()
        return found

    def renew(self):
        self.again()
        lab.wait_for("its host", lambda: self.execute("one", "?wait=30")["status"] == "Completed")

    def statements(self, ask, times):
        ask()
        with open(f"{self.cluster.place}/log", encoding="utf-8") as log:
            log.seek(0, os.SEEK_END)
            for _ in range(times):
                ask()
            lab.wait_for("the last statement", lambda: time.sleep(0.3) or True)
            text = log.read()
        seen = {}
        for plan in re.findall(r"LOG:  duration: [0-9.]+ ms  plan:\n((?:\t.*\n)+)", text):
            said = json.loads(plan)
            if "cloacina_" in said["Query Text"]:
                seen.setdefault(" ".join(said["Query Text"].split()), []).append(cost(said["Plan"]))
        # What other threads ask for now and then is not part of it.
        seen = {text: costs for text, costs in seen.items() if len(costs) >= times}
        return {text: tuple(report.median(column) for column in zip(*costs)) for text, costs in seen.items()}


def cost(plan):
    """Pages that were touched, and rows that were read of tables and indexes."""
    rows = 0
    nodes = [plan]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if "Scan" in node["Node Type"]:
            kept = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            rows += kept * node["Actual Loops"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], rows


def told(what, columns, against, measured, explained):
    """A row for how long it takes, and one for what PostgreSQL does for it."""
    costs = [report.median(one) for one in measured]
    ratio = max(costs) / costs[0]
    report.seen(f"{what} {columns}", ", ".join(f"{cost:,.0f}" for cost in costs) + " µs", against, f"{ratio:.2f}", "1.3 or less", ratio <= 1.3, measured)
    pages, rows = ([sum(one[number] for one in each.values()) for each in explained] for number in (0, 1))
    ratio = max(pages) / max(pages[0], 1)
    text = f"{', '.join(f'{page:,.0f}' for page in pages)} pages, {', '.join(f'{row:,.0f}' for row in rows)} rows"
    # An index of a million rows has a level more, or two, than one of a thousand: each is a page more of a few.
    report.seen(f"{what} {columns}, what its statements touch", text, against, f"{ratio:.2f}", "shown", None, explained)


def with_history(bench):
    sizes, sites = grown(bench, Grown, 60)
    explained = [site.explained() for site in sites]
    for what in sites[0].costs:
        columns = f"of {', '.join(f'{size:,}' for size in sizes)} that ended"
        told(what, columns, f"of {sizes[0]:,}", [site.costs[what] for site in sites], [one[what] for one in explained])
    removal(sites[-1], 5 if bench.brief else 30)
    for site in sites:
        site.server.stop()


def removal(site, seconds):
    """How fast what is kept no longer goes, and what that costs others."""
    reads = [("GET", site.reads()["one execution"], site.key, "")]
    before = [wrk(site.server.address, reads, 1, 2)["p50"] for _ in range(3)]
    # All but the one that is asked for.
    site.sql(f"UPDATE cloacina_executions SET completed_at = now() + interval '1 day' WHERE id = '{site.middle}'")
    site.sql("UPDATE cloacina_tenants SET retention_seconds = 1")
    left = lambda: int(site.sql("SELECT count(*) FROM cloacina_executions"))
    there = left()
    # It is looked for at the start, and each minute.
    site.again()
    lab.wait_for("the first to go", lambda: left() < there - 100, 90)
    there, began, meanwhile = left(), time.perf_counter(), []
    while time.perf_counter() - began < seconds:
        meanwhile.append(wrk(site.server.address, reads, 1, 2)["p50"])
    rate = (there - left()) / (time.perf_counter() - began)
    report.seen(f"executions removed, of {site.count:,}", f"{rate:,.0f}/s", "", "", "100/s or more", rate >= 100, [rate])
    ratio = report.median(meanwhile) / report.median(before)
    costs = f"{report.median(before):,.0f}, {report.median(meanwhile):,.0f} µs"
    report.seen("one execution, while they are removed", costs, "before", f"{ratio:.2f}", "1.3 or less", ratio <= 1.3, {"before": before, "meanwhile": meanwhile})


def beside_an_open_transaction(bench):
    """With what ten minutes of work leave where vacuum may take nothing away."""
    site = Grown(bench.cluster, 1_000 if bench.brief else 100_000)
    rounds, changes = (2, 20) if bench.brief else (5, 60)
    for _ in range(rounds):
        site.measure(bench.seconds, changes)
    before, site.costs = site.costs, {}
    explained = [site.explained()]
    session = [f"{bench.cluster.bin}/psql", "-h", bench.cluster.host, "-p", str(bench.cluster.port), "-U", "postgres", "-XAtq", site.database]
    with subprocess.Popen(session, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cloacina_tenants;\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "1\n"
        # It would take them for its own.
        site.server.stop()
        site.each(NEW.format(count=2_000 if bench.brief else MEANWHILE), *LIVE, "DROP TABLE new")
        site.sql("DO $$ BEGIN FOR n IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        site.sql("VACUUM ANALYZE")
        site.renew()
        for _ in range(rounds):
            site.measure(bench.seconds, changes)
        explained.append(site.explained())
        holder.stdin.close()
    for what, costs in before.items():
        told(what, "beside a transaction of ten minutes", "before it", [costs, site.costs[what]], [one[what] for one in explained])


ROWS = [with_history, beside_an_open_transaction]
