"""Rows about sessions that lead to the wrong server, or come with settings that somebody else chose."""

import threading
import time

import lab
from lab import row, spread
from several import Wire

READ_ONLY = b"database is read-only"


class Pressure:
    """Asks with revoked keys, and for /ready, until it is told to stop."""

    def __init__(self, server):
        self.server, self.revoked, self.late, self.asked = server, [], [], 0
        self.reasons, self.over = set(), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.over.is_set():
            for since, key in list(self.revoked):
                if self.server.ask("GET", "/auth/verify", key)[0] == 204:
                    self.late.append(time.monotonic() - since)
                self.asked += 1
            status, body = self.server.ask("GET", "/ready")
            self.reasons.add(body if status == 503 else b"")
            time.sleep(0.005)

    def end(self):
        self.over.set()
        self.thread.join()


def switched_over(_cluster, short):
    """A forwarder leads to a standby that is far behind, and back, and at last for good."""
    primary = lab.Cluster()
    name = primary.database()
    wire = Wire(primary.host, primary.port)
    lab.started.append(wire)
    server = lab.Server(primary.url(name, wire.port))
    admin = server.key()
    keys = [server.create(admin) for _ in range(3 if short else 10)]
    standby = lab.Standby(primary, "10min")
    pressure = Pressure(server)
    back, unsaid = [], 0
    try:
        for identity, key in keys:
            assert server.ask("DELETE", f"/auth/keys/{identity}", admin)[0] == 200
            pressure.revoked.append((time.monotonic(), key))
            pressure.reasons.clear()
            wire.target = (standby.host, standby.port)
            wire.cut()
            time.sleep(4)
            unsaid += not any(READ_ONLY in reason for reason in pressure.reasons)
            wire.target = (primary.host, primary.port)
            began = time.monotonic()
            lab.wait_for("it to serve again", lambda: server.ask("GET", "/auth/verify", admin)[0] == 204)
            back.append(time.monotonic() - began)
            lab.wait_for("it to be ready", lambda: server.ask("GET", "/ready")[0] == 200)
        copied = "SELECT bool_and(flush_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication"
        lab.wait_for("the standby to have everything", lambda: primary.sql("postgres", copied) == "t")
        # The old primary lives on, and so do the sessions on it: another server revokes on the new one.
        identity, key = server.create(admin)
        lab.wait_for("the standby to have everything", lambda: primary.sql("postgres", copied) == "t")
        wire.target = (standby.host, standby.port)
        standby.run("pg_ctl", "-D", standby.data, "-s", "-w", "promote")
        other = lab.Server(standby.url(name, wire.port))
        assert other.ask("DELETE", f"/auth/keys/{identity}", admin)[0] == 200
        pressure.revoked.append((time.monotonic(), key))
        time.sleep(3)
    finally:
        pressure.end()
    figures = f"{pressure.asked} requests with revoked keys, let in late {len(pressure.late)}; /ready did not say why {unsaid} times; served again after {spread(back)}"
    row(f"switched {len(keys)} times to a standby that is 10 minutes behind, then for good", figures, not pressure.late and not unsaid and max(back) < lab.limit(3))


IMPOSED = {
    "idle_session_timeout": "20ms",
    "idle_in_transaction_session_timeout": "5ms",
    "statement_timeout": "20ms",
    "lock_timeout": "1ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "exit_on_error": "on",
    "DateStyle": "SQL, DMY",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "synchronous_commit": "off",
}


def imposed_settings(cluster, short):
    """Sessions that the database would end after 20 ms, and whose statements it would."""
    name = cluster.database()
    for setting, value in IMPOSED.items():
        cluster.sql("postgres", f"ALTER DATABASE {name} SET {setting} = '{value}'")
    server = lab.Server(cluster.url(name))
    admin = server.key()
    statuses, took = {}, []
    until = time.monotonic() + (5 if short else 30)
    while time.monotonic() < until:
        for method, path, body in (("POST", "/auth/keys", {"name": "made"}), ("GET", "/auth/keys?limit=2", None), ("GET", "/ready", None)):
            began = time.monotonic()
            status, _ = server.ask(method, path, admin, body)
            took.append(time.monotonic() - began)
            statuses[status] = statuses.get(status, 0) + 1
            time.sleep(0.03)
    row(f"{len(IMPOSED)} settings imposed by the database", f"answers {statuses}; {spread(took)}", set(statuses) == {200, 201})
    server.stop()


ROWS = [switched_over, imposed_settings]
