"""What running tasks and waiting for work hold: memory, threads, and the share of a processor."""

import glob
import os
import re
import tempfile
import time

import lab
import report
from executions import TENANT, Site

# More than is kept of a log, and nearly as much as an output may have; then it waits until the pipe is opened.
TASK = """head -c 1100000 /dev/zero | tr '\\0' x
{ printf '{"all":"'; head -c 1048000 /dev/zero | tr '\\0' y; printf '"}'; } >"$CLOACINA_OUTPUT"
read line <%s"""


def running_tasks(bench):
    """The server's memory with tasks whose logs are full, and as all of them end at once, each with a large output."""
    count = 20 if bench.brief else 200
    site = Site(bench.cluster, slots=count + 1)
    place = tempfile.mkdtemp(dir=lab.SCRATCH)
    os.chmod(place, 0o755)
    pipe = f"{place}/pipe"
    os.mkfifo(pipe)
    os.chmod(pipe, 0o644)
    status, body = site.server.ask("PATCH", TENANT, site.key, {"paths": {place: "r"}})
    assert status == 200, (status, body)
    site.upload("large", {"only": (["sh", "-c", TASK % pipe], [])})
    for _ in range(count):
        site.execute("large")
    printed = "SELECT count(*) FROM cloacina_attempts WHERE ended_at IS NULL AND log_bytes >= 1100000"
    lab.wait_for("all logs to be full", lambda: site.sql(printed) == str(count), 600)
    supervisors = supervisors_of(site.server)
    assert len(supervisors) == count, len(supervisors)
    shares = [proportional_set(pid) for pid in supervisors]
    threads = site.server.footprint()[2]
    report.bounded("memory, a supervisor with a full log", "MiB", shares, 1)
    report.bounded(f"memory, most while {count} tasks run whose logs are full", "MiB", [site.server.footprint()[1]], 24)
    # A line for each.
    with open(pipe, "wb", buffering=0) as lines:
        lines.write(b"\n" * count)
        ended = "SELECT count(*) FROM cloacina_executions WHERE status = 'Completed'"
        lab.wait_for("all to end", lambda: site.sql(ended) == str(count), 600)
    threads = max(threads, site.server.footprint()[2])
    kept = site.sql("SELECT count(*) FROM cloacina_tasks WHERE octet_length(output) > 1000000")
    assert kept == str(count), kept
    report.bounded(f"memory, most when {count} such tasks have ended at once, each with 1 MiB of output", "MiB", [site.server.footprint()[1]], 24)
    report.bounded(f"threads of a server that runs {count} tasks", "", [threads], 64)


def supervisors_of(server):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if b"supervise-task" in words and any(word.startswith(server.home.encode()) for word in words):
            found.append(int(path.split("/")[2]))
    return found


def proportional_set(pid):
    """MiB: what it has alone, and its share of what it has with others."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return int(re.search(r"^Pss: +(\d+) kB$", file.read(), re.M)[1]) / 1024


def nothing_to_do(bench):
    """What a server asks and takes that has 1,000 tenants and nothing to do, and how much of that is for tasks."""
    seconds = 10 if bench.brief else 60
    asked, used = zip(*(idle(bench, slots, seconds) for slots in (0, 4)))
    report.bounded("statements a second for tasks, with 1,000 tenants and nothing to do", "", [asked[1] - asked[0]], 1.1, f"{asked[0]:.1f} without tasks")
    report.bounded("of a processor, in %", "", [used[1]], 0.2, f"{used[0]:.2f} without tasks")


def idle(bench, slots, seconds):
    """Statements a second, and percents of a processor."""
    site = Site(bench.cluster, slots) if slots else None
    database = site.database if slots else bench.cluster.database()
    server = site.server if slots else lab.Server(bench.cluster.url(database))
    sql = lambda text: bench.cluster.sql(database, text)
    sql("INSERT INTO cloacina_tenants (id, name) SELECT gen_random_uuid(), 'tenant_' || n FROM generate_series(1, 1000) n")
    bench.cluster.sql("postgres", f"ALTER DATABASE {database} SET log_statement = 'all'")
    if slots:
        site.again()
        server = site.server
    else:
        server.stop()
        server = lab.Server(bench.cluster.url(database), home=server.home)
    # What a start does is over.
    time.sleep(5 if bench.brief else 20)
    before = processor_seconds(server)
    with open(f"{bench.cluster.place}/log", encoding="utf-8") as log:
        log.seek(0, os.SEEK_END)
        time.sleep(seconds)
        used = processor_seconds(server) - before
        asked = re.findall(r"LOG:  (?:execute|statement)[^:]*: (.*)", log.read())
    report.raw[f"statements with {slots} slots"] = asked
    server.stop()
    return len(asked) / seconds, used / seconds * 100


def processor_seconds(server):
    with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


ROWS = [running_tasks, nothing_to_do]
