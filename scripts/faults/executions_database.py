"""Rows about executions whose database is stopped, hung, locked, or replaced by a standby while tasks run and end."""

import contextlib
import random
import signal
import subprocess
import time

import lab
from executions import begin, finish, go_on
from ledger import Load, Place, execute
from several import Wire

TABLES = ("cloacina_queue", "cloacina_executions", "cloacina_tasks", "cloacina_attempts", "cloacina_events", "cloacina_hosts", "cloacina_log_pieces")


def database_away(cluster, short):
    rounds, hung, away = (4, 6, 5) if short else (20, 30, 600)
    place, name, server, load = begin(cluster)

    def gone(mode, seconds):
        cluster.stop(mode)
        time.sleep(seconds)
        cluster.start()

    def stopped():
        cluster.signal(signal.SIGSTOP)
        time.sleep(hung)
        cluster.signal(signal.SIGCONT)

    faults = [lambda: gone("immediate", 0), lambda: gone("fast", 0), stopped, lambda: gone("immediate", away)]
    for number in range(rounds):
        time.sleep(random.random() * 3)
        go_on(load)
        # Away for minutes once.
        faults[number % 4 if number < 4 or number % 4 < 3 else 0]()
    time.sleep(1)
    finish(f"PostgreSQL killed, restarted, hung for {hung} s, away for {away} s, {rounds} times in all", cluster, place, name, server, load)


class Session:
    """Statements on a session of an administrator's or a tenant's own, which then stays as it is until it is ended."""

    def __init__(self, cluster, name, text, user="postgres"):
        arguments = ["-h", cluster.place, "-p", str(cluster.port), "-U", user, "-d", name, "-XAtq"]
        command = [*cluster.owner, f"{cluster.bin}/psql", *arguments]
        self.process = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        lab.started.append(self)
        self.process.stdin.write(f"{text};\n\\echo done\n".encode())
        self.process.stdin.flush()
        while self.process.stdout.readline().strip() != b"done":
            if self.process.poll() is not None:
                raise RuntimeError(f"psql is gone: {text}")

    def stop(self):
        self.process.stdin.close()
        lab.end(self.process, signal.SIGTERM)
        self.process.stdout.close()
        if self in lab.started:
            lab.started.remove(self)


def locked_tables(cluster, short):
    """By an administrator, who then goes away for a cup of coffee."""
    seconds, tables = (2, TABLES[:5]) if short else (60, TABLES[:5])
    place, name, server, load = begin(cluster)
    for table in tables:
        go_on(load)
        time.sleep(random.random())
        session = Session(cluster, name, f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        time.sleep(seconds)
        session.stop()
    finish(f"{len(tables)} tables locked for {seconds} s each", cluster, place, name, server, load)


def looker(server, admin, name):
    """A tenant's role that may log in. All databases of a cluster share them."""
    role = f"looker_{name}"
    status, answer = server.ask("POST", "/tenants", admin, {"schema_name": role, "username": role})
    assert status == 201, (status, answer)
    return role


def open_transactions(cluster, short):
    """Of a tenant that looks at everything, of an administrator who does, and one that has the rows of executions and of
    the host locked for a while."""
    rounds, seconds = (1, 8) if short else (5, 600)
    place, name, server, load = begin(cluster)
    role, sessions = looker(server, place.admin, name), []
    views = cluster.sql(name, "SELECT string_agg('TABLE cloacina_views.' || viewname, '; ') FROM pg_views WHERE schemaname = 'cloacina_views'")
    began = time.monotonic()
    for _ in range(rounds):
        time.sleep(random.random() * 2)
        sessions.append(Session(cluster, name, f"BEGIN ISOLATION LEVEL REPEATABLE READ; {views}", role))
        sessions.append(Session(cluster, name, "BEGIN ISOLATION LEVEL REPEATABLE READ; " + "; ".join(f"TABLE {table}" for table in TABLES)))
        holds = Session(cluster, name, "BEGIN; SELECT id FROM cloacina_executions WHERE completed_at IS NULL LIMIT 4 FOR UPDATE; SELECT FROM cloacina_hosts FOR SHARE")
        time.sleep(seconds / 10)
        holds.stop()
    time.sleep(max(0, began + seconds - time.monotonic()))
    states = cluster.sql(name, "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND backend_type = 'client backend'")
    if int(states) < len(sessions):
        load.wrong.append(f"{len(sessions)} transactions were opened, and {states} are")
    for session in sessions:
        session.stop()
    finish(f"{len(sessions)} transactions open for {seconds} s, of tenants and an administrator", cluster, place, name, server, load)


# Leaves the database as it was before the newest migration.
BEFORE = """DROP TABLE cloacina_queue, cloacina_executions, cloacina_tasks, cloacina_attempts, cloacina_events, cloacina_hosts,
                cloacina_log_pieces, cloacina_idempotency_keys CASCADE;
    COMMENT ON SCHEMA cloacina_views IS 'cloacinactl: views of V10';
    DELETE FROM refinery_schema_history WHERE version = 11"""


def open_migrations(cluster, short):
    """A tenant looks at its views in a transaction that stays open, and an administrator keeps what a migration needs for a
    while, when a server starts that migrates."""
    rounds, seconds = (1, 4) if short else (5, 20)
    for number in range(rounds):
        name = cluster.database()
        earlier = lab.Server(cluster.url(name))
        role = looker(earlier, earlier.key(), name)
        earlier.stop()
        cluster.sql(name, BEFORE)
        views = cluster.sql(name, "SELECT string_agg('TABLE cloacina_views.' || viewname, '; ') FROM pg_views WHERE schemaname = 'cloacina_views'")
        looks = Session(cluster, name, f"BEGIN ISOLATION LEVEL REPEATABLE READ; {views}", role)
        holds = Session(cluster, name, "BEGIN; LOCK TABLE cloacina_tenants IN SHARE MODE")
        place = Place()
        server = place.server(cluster.url(name), home=earlier.home, wait=False)
        time.sleep(seconds)
        was_up = server.is_up()
        holds.stop()
        server.wait()
        place.tenant(server)
        place.upload_dag(server)
        lab.wait_for("a host that runs tasks", lambda: execute(server, place.admin)[0] == 202)
        load = Load(place, server)
        load.start()
        lab.wait_for("the views to be renewed", lambda: "V10" not in cluster.sql(name, "SELECT obj_description('cloacina_views'::regnamespace)"))
        if was_up:
            load.wrong.append("it migrated in spite of a lock")
        time.sleep(2)
        looks.stop()
        finish(f"a migration beside a tenant's open transaction, and {seconds} s of an administrator's lock, {number + 1}", cluster, place, name, server, load)


def standby_away(cluster, short):
    """Every commit waits for a synchronous standby: those that are cancelled meanwhile are done, and nobody was told."""
    rounds, seconds = (2, 12) if short else (10, 30)
    place, name, server, load = begin(cluster)
    for _ in range(rounds):
        go_on(load)
        time.sleep(1 + random.random())
        cluster.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        cluster.sql("postgres", "SELECT pg_reload_conf()")
        time.sleep(seconds * random.random())
        cluster.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
        cluster.sql("postgres", "SELECT pg_reload_conf()")
    finish(f"a synchronous standby gone for up to {seconds} s, {rounds} times", cluster, place, name, server, load)


def failover(what, short, cut):
    """To a standby that is promoted while the primary is stopped. The servers' link leads to the new one at once."""
    rounds = 1 if short else 10
    for number in range(rounds):
        with contextlib.ExitStack() as stack:
            primary = lab.Cluster()
            stack.callback(primary.stop)
            standby = lab.Standby(primary, 0)
            stack.callback(standby.stop)
            if not cut:
                primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
                primary.sql("postgres", "SELECT pg_reload_conf()")
            wire = Wire(primary.host, primary.port)
            stack.callback(wire.stop)
            link = Linked(primary, wire)
            place, name, server, load = begin(link)
            other = place.server(link.url(name), 4)
            if cut:
                time.sleep(1 + random.random())
                standby.sql("postgres", "ALTER SYSTEM SET primary_conninfo = ''")
                standby.sql("postgres", "SELECT pg_reload_conf()")
                lab.wait_for("the receiver to end", lambda: standby.sql("postgres", "SELECT count(*) FROM pg_stat_wal_receiver") == "0")
            time.sleep(1 + random.random() * 2)
            # Whatever the old one has under way is not answered any more.
            primary.signal(signal.SIGSTOP)
            if number % 3 == 2:
                lab.end(server.process)
            standby.run("pg_ctl", "-D", standby.data, "-w", "promote")
            wire.target = (standby.host, standby.port)
            wire.cut()
            if number % 3 == 2:
                server = load.server = place.server(link.url(name), home=server.home)
            time.sleep(3)
            finish(f"failover {number + 1} to {what}", standby, place, name, server, load, lost=cut, statuses=("Completed",) if not cut else ("Completed", "Failed"))
            other.stop()


class Linked:
    """A cluster that is reached by a proxy."""

    def __init__(self, cluster, wire):
        self.cluster, self.wire = cluster, wire

    def database(self):
        return self.cluster.database()

    def url(self, name):
        return self.cluster.url(name, self.wire.port)


def failover_synchronous(_cluster, short):
    failover("a synchronous standby", short, False)


def failover_asynchronous(_cluster, short):
    failover("an asynchronous standby that was cut off before", short, True)


ROWS = [database_away, failover_synchronous, failover_asynchronous, standby_away, locked_tables, open_transactions, open_migrations]
