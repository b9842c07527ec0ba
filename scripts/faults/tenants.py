"""Rows about tenants: a server that is killed while it makes and removes them leaves all of one or nothing."""

import json
import random
import tempfile
import threading
import time

import lab
from lab import row

NAMES = [f"tenant_{number}" for number in range(4)]

# What may not be, whatever was going on: each with its name.
CONTRADICTIONS = """
WITH named AS (
    SELECT *, CASE WHEN removed_at IS NULL THEN name ELSE 'cloacina_removed_' || replace(id::text, '-', '') END AS schema,
           CASE WHEN removed_at IS NULL THEN username ELSE 'cloacina_removed_' || replace(id::text, '-', '') END AS role
    FROM cloacina_tenants
)
SELECT 'role without row: ' || rolname FROM pg_roles
    WHERE (rolname LIKE 'tenant\\_%' OR rolname LIKE 'cloacina\\_removed\\_%') AND rolname NOT IN (SELECT role FROM named)
UNION ALL
SELECT 'schema without row: ' || nspname FROM pg_namespace
    WHERE (nspname LIKE 'tenant\\_%' OR nspname LIKE 'cloacina\\_removed\\_%') AND nspname NOT IN (SELECT schema FROM named)
UNION ALL
SELECT 'row without role: ' || name FROM named WHERE removed_at IS NULL AND role NOT IN (SELECT rolname FROM pg_roles)
UNION ALL
SELECT 'row without schema: ' || name FROM named WHERE removed_at IS NULL AND schema NOT IN (SELECT nspname FROM pg_namespace)
UNION ALL
SELECT 'removed role that logs in: ' || name FROM named JOIN pg_roles ON rolname = role WHERE removed_at IS NOT NULL AND rolcanlogin
UNION ALL
SELECT 'valid key of a removed tenant: ' || named.name FROM named JOIN api_keys ON tenant = named.id
    WHERE removed_at IS NOT NULL AND revoked_at IS NULL
"""
REMOVED = """
SELECT (SELECT count(*) FROM cloacina_tenants WHERE removed_at IS NOT NULL)
     + (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'cloacina\\_removed\\_%')
     + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'cloacina\\_removed\\_%')
"""
# A killed one's session may still be at its last statement.
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Client(threading.Thread):
    """Makes a tenant, a key and a table of it, and removes it, again and again until the server is gone."""

    def __init__(self, cluster, server, name, counts, wrong, is_over):
        super().__init__()
        self.cluster, self.server, self.admin, self.name = cluster, server, server.key(), name
        self.counts, self.wrong, self.is_over = counts, wrong, is_over

    def run(self):
        try:
            # What an earlier kill left can be removed, or is not there.
            self.ask("DELETE", f"/tenants/{self.name}", None, (200, 404))
            while True:
                made = self.ask("POST", "/tenants", {"schema_name": self.name, "username": self.name}, (201,))
                self.ask("POST", f"/tenants/{self.name}/keys", {"name": "made"}, (201,))
                if random.random() < 0.2:
                    said = self.cluster.run("psql", "-XAtqc", "CREATE TABLE t (n int); SELECT current_schema()", json.loads(made)["connection_string"])
                    if said.decode().strip() != self.name:
                        self.wrong.append((self.name, said))
                self.ask("DELETE", f"/tenants/{self.name}", None, (200,))
        except (OSError, RuntimeError):
            # Cut off by the kill.
            if not self.is_over.is_set():
                raise

    def ask(self, method, path, body, expected):
        status, answer = self.server.ask(method, path, self.admin, body)
        self.counts[status] = self.counts.get(status, 0) + 1
        if status not in expected:
            self.wrong.append((method, path, status, answer))
        return answer


def killed_changes(cluster, short):
    rounds = 8 if short else 200
    name, home = cluster.database(), tempfile.mkdtemp(prefix="home-", dir=lab.SCRATCH)
    counts, wrong, contradictions, unfinished = {}, [], [], 0
    for _ in range(rounds):
        server = lab.Server(cluster.url(name), home=home)
        lab.wait_for("what was removed to be gone", lambda: cluster.sql(name, REMOVED) == "0", 60)
        is_over = threading.Event()
        clients = [Client(cluster, server, one, counts, wrong, is_over) for one in NAMES]
        for client in clients:
            client.start()
        time.sleep(0.05 + random.random() * 0.6)
        is_over.set()
        lab.end(server.process)
        for client in clients:
            client.join()
        server.stop()
        lab.wait_for("the killed server's sessions to end", lambda: cluster.sql(name, SESSIONS) == "0")
        # As if its lease had run out: else each removal waits for that before it is answered.
        cluster.sql(name, "DELETE FROM auth_caches")
        contradictions += cluster.sql(name, CONTRADICTIONS).splitlines()
        unfinished += cluster.sql(name, REMOVED) != "0"
    server = lab.Server(cluster.url(name), home=home)
    lab.wait_for("what was removed to be gone", lambda: cluster.sql(name, REMOVED) == "0", 60)
    for one in NAMES:
        for method, path, body in (
            ("DELETE", f"/tenants/{one}", None),
            ("POST", "/tenants", {"schema_name": one, "username": one}),
            ("DELETE", f"/tenants/{one}", None),
        ):
            status, answer = server.ask(method, path, server.key(), body)
            if status not in (200, 201, 404):
                wrong.append((method, path, status, answer))
    server.stop()
    figures = (
        f"{counts.get(201, 0)} tenants and keys made, {counts.get(200, 0)} tenants removed; contradictions {contradictions[:3]}; "
        f"wrong answers {wrong[:3]}; {unfinished} times something removed was left, which the next server finished"
    )
    row(f"kill -9 at {rounds} random points of making and removing tenants", figures, not contradictions and not wrong)


ROWS = [killed_changes]
