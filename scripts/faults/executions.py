"""Rows about executions whose server and supervisors are killed at random points, and that are cancelled there."""

import json
import os
import random
import threading
import time

import lab
import verify
from ledger import Load, Place, execute, kill
from verify import tell


def begin(cluster, number=12, flags=(), long=0.8, most=16, home=None):
    """A server with slots on a fresh database, a tenant with the workflow, and a load of its executions."""
    place, name = Place(), cluster.database()
    server = place.server(cluster.url(name), number, flags=flags, home=home)
    place.tenant(server)
    place.upload_dag(server, long)
    lab.wait_for("a host that runs tasks", lambda: execute(server, place.admin)[0] == 202)
    load = Load(place, server, most)
    load.start()
    return place, name, server, load


def go_on(load, count=4):
    """Waits until so many more executions have been started, so that there is something to disturb again."""
    enough = len(load.ids) + count
    lab.wait_for("more executions", lambda: len(load.ids) >= enough, lab.limit(60))


# Of which some never came to write to the ledger.
COUNTED = """SELECT concat_ws(', ', count(*) || ' attempts', count(*) FILTER (WHERE number > 1) || ' of them retries',
                 count(*) FILTER (WHERE exit_code IS NULL) || ' without an exit code') FROM cloacina_attempts"""


def finish(what, cluster, place, name, server, load, figures="", forbidden="", **options):
    """`forbidden`: what no attempt may have ended with, as a regular expression."""
    load.end()
    wrong = load.wrong + verify.check(place, cluster, name, server, load.ids, **options)
    # The first one is that of `begin`.
    made = int(cluster.sql(name, "SELECT count(*) FROM cloacina_executions"))
    if not options.get("lost") and made != len(load.ids) + 1:
        wrong.append(f"{made} executions were made, and {len(load.ids) + 1} answered")
    if forbidden:
        wrong += cluster.sql(name, f"SELECT count(*), error FROM cloacina_attempts WHERE error ~ '{forbidden}' GROUP BY error").splitlines()
    attempts = sum(line[0] == "begin" for line in place.ledger())
    counted = cluster.sql(name, COUNTED)
    tell(what, f"{len(load.ids)} executions, {load.refused} refused and {load.cut} cut off until then, {counted}, {attempts} in the ledger{figures}", wrong)
    server.stop()
    place.stop()


def killed_servers(cluster, short, with_supervisors=False):
    rounds = (8 if short else 200) if not with_supervisors else (5 if short else 50)
    place, name, server, load = begin(cluster)
    killed = 0
    for _ in range(rounds):
        # Also before it is up again.
        time.sleep(random.random() * random.choice((0.3, 3)))
        if with_supervisors:
            # None of them sees the others go.
            found = place.processes()
            for pid in [server.process.pid, *(pid for pid, what in found.items() if what != "task")]:
                kill(pid)
                killed += pid != server.process.pid
        lab.end(server.process)
        server.out.close(), server.err.close()
        lab.started.remove(server)
        server = load.server = place.server(cluster.url(name), home=server.home, wait=False)
        if random.random() < 0.7:
            server.wait()
    server.wait()
    what = "server and supervisors at once" if with_supervisors else "the server"
    statuses = ("Completed", "Failed") if with_supervisors else ("Completed",)
    finish(f"kill -9 of {what} at {rounds} random points under load", cluster, place, name, server, load, f", {killed} supervisors killed" * with_supervisors, statuses=statuses)


def killed_together(cluster, short):
    killed_servers(cluster, short, True)


def killed_supervisors(cluster, short):
    """At random points, and in turn what is still to become the command."""
    rounds = 20 if short else 200
    place, name, server, load = begin(cluster)
    killed, directories = 0, []
    # A starter is there for a moment only.
    is_root = os.geteuid() == 0
    if is_root:
        os.nice(-10)
    until = time.monotonic() + lab.limit(300)
    while killed + len(directories) < rounds and time.monotonic() < until:
        if killed <= len(directories):
            found = [pid for pid, what in place.processes().items() if what == "supervise-task"]
            if found:
                kill(random.choice(found))
                killed += 1
        else:
            directories += filter(None, [killed_starter(server.home, until)])
        time.sleep(random.random() * 0.2)
    if is_root:
        os.nice(10)
    # Those that had not become the command yet: their tasks wrote nothing.
    began = {line[4] for line in place.ledger()}
    early = sum(f"{directory}/task/home" not in began for directory in directories)
    if killed + early < rounds * 0.8:
        load.wrong.append("too few were killed")
    figures = f", {killed} supervisors and {len(directories)} starters killed, {early} of those before there was a command"
    finish(f"kill -9 of {rounds} supervisors and starters under load", cluster, place, name, server, load, figures, statuses=("Completed", "Failed"))


def newest_process():
    with open("/proc/loadavg", encoding="ascii") as file:
        return int(file.read().split()[-1])


def killed_starter(home, until):
    """Waits for the next `exec-task` without a pause, and kills it within a millisecond or two. The result is its attempt's
    directory."""
    seen = newest_process()
    while time.monotonic() < until:
        newest = newest_process()
        for pid in range(seen + 1, newest + 1):
            # It is its parent's copy at first, or a supervisor.
            soon = time.monotonic() + 0.003
            while b"supervise-task" in (words := words_of(pid)) and time.monotonic() < soon:
                pass
            if len(words) > 2 and words[1] == b"exec-task" and words[2].startswith(home.encode()):
                soon = time.monotonic() + random.random() * 0.002
                while time.monotonic() < soon:
                    pass
                if words_of(pid) == words:
                    kill(pid)
                    return os.path.dirname(words[2].decode())
        seen = newest
    return None


def words_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def cancelled(cluster, short):
    """At random points, a few at a time, some of them twice; some are retried afterwards, and cancelled again."""
    count = 40 if short else 500
    place, name, server, load = begin(cluster)
    lab.wait_for("executions", lambda: load.ids)
    taken, answers, wrong = set(), {}, []
    until = time.monotonic() + lab.limit(120 if short else 600)

    def ask(execution, what):
        status, answer = server.ask("POST", f"/tenants/acme/executions/{execution}/{what}", place.admin)
        answers[status] = answers.get(status, 0) + 1
        if status not in (202, 409):
            wrong.append((status, answer))
        return status

    def cancel(number):
        chosen = random.Random(number)
        while len(taken) < count and time.monotonic() < until:
            execution = chosen.choice(load.ids[-12:])
            time.sleep(chosen.random() * 0.4)
            for _ in range(chosen.choice((1, 1, 2))):
                if ask(execution, "cancel") == 202:
                    taken.add(execution)
            if chosen.random() < 0.2:
                ask(execution, "retry")

    threads = [threading.Thread(target=cancel, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.wrong += wrong
    if len(taken) < count:
        load.wrong.append("too few were cancelled")
    figures = f", cancelled {len(taken)}, answers {json.dumps(answers)}"
    finish(f"{count} executions cancelled at random points", cluster, place, name, server, load, figures, statuses=("Completed", "Failed", "Cancelled"))


ROWS = [killed_servers, killed_supervisors, killed_together, cancelled]
