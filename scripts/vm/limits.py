"""Tasks that want all memory, all processes, or to stay, under the unit: each has a cgroup of its own, and stays in it."""

import contextlib
import glob
import http.client
import io
import json
import os
import re
import signal
import tarfile

from lab import (
    FIRST_KEY,
    README,
    Journal,
    Seen,
    expect,
    read,
    replace_file,
    run,
    server_pid,
    shown,
    status,
    typed,
    wait_for,
)

GROUP = "/sys/fs/cgroup/system.slice/cloacinactl.service"
MEMORY = 64 << 20
# No process but one of these tasks has it in its command line.
MARK = "86399.7"

TASKS = {
    "memory": ("exec python3 -c 'print(len(bytearray(256 << 20)))'", 'max_memory = "64M"'),
    # Each of its subshells does the same.
    "bomb": ("f() { while :; do f & done; }; f 2>/dev/null", 'timeout = "20s"'),
    "beside": ("for i in 1 2 3 4 5 6 7 8; do sleep 1; /bin/true || exit 1; done", ""),
    "waits": (f"sleep {MARK} & echo $!; wait", 'max_memory = "64M"'),
    "daemon": (f"(env -i setsid sh -c 'setsid sleep {MARK} & sleep {MARK}' >/dev/null 2>&1 </dev/null &); sleep {MARK}", ""),
    "escapes": (
        f"""own=$(sed s/0::// /proc/self/cgroup); case $own in */attempt-*) ;; *) exit 1;; esac
for group in {GROUP}/server {GROUP} /sys/fs/cgroup /sys/fs/cgroup$own; do
    (echo 0 >$group/cgroup.procs) 2>/dev/null && exit 2
    (echo max >$group/memory.max) 2>/dev/null && exit 3
    mkdir $group/mine 2>/dev/null && exit 4
done
# Modes of files of its own user are its own to change.
chmod 0 {GROUP}/* {GROUP}/server/* /sys/fs/cgroup$own/* /sys/fs/cgroup$own {GROUP} 2>/dev/null
(setsid sleep {MARK} &) >/dev/null 2>&1
echo held""",
        "",
    ),
    "after": ("exit 0", ""),
}


def request(method, path, body=None, kind="application/json"):
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
    try:
        head = {"Authorization": f"Bearer {read(FIRST_KEY)}", "Content-Type": kind}
        connection.request(method, path, body, head)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    expect(answer.status < 300, f"{method} {path}: {answer.status} {text}")
    return json.loads(text) if text.startswith(("{", "[")) else text


def manifest(name, lines):
    return f'[package]\nname = "{name}"\nversion = "1.0.0"\n[[tasks]]\nid = "task"\ncommand = ["./task"]\n{lines}\n'


def upload(name, script, lines):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path, text, mode in (("package.toml", manifest(name, lines), 0o644), ("task", f"#!/bin/sh\n{script}\n", 0o755)):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text.encode()), mode
            archive.addfile(member, io.BytesIO(text.encode()))
    request("POST", "/tenants/limits/workflows", file.getvalue(), "application/gzip")


def execute(name):
    def taken():
        with contextlib.suppress(Seen):
            return request("POST", f"/tenants/limits/workflows/{name}/execute", "{}")["execution_id"]

    return wait_for("a host that runs tasks", taken)


def task(execution):
    return request("GET", f"/tenants/limits/executions/{execution}")["tasks"][0]


def ended(execution, limit=100):
    def look():
        # Beside a task that takes whatever it gets, the database may take too long once.
        with contextlib.suppress(Seen):
            now = task(execution)
            return now["status"] in ("Completed", "Failed") and now

    return wait_for("its end", look, limit)


def log(execution):
    return request("GET", f"/tenants/limits/executions/{execution}/tasks/task/log")


def processes(is_one):
    """Ids of those whose command lines are ones."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            if is_one(file.read().split("\0")[:-1]):
                found.append(path.split("/")[2])
    return found


def marked():
    return processes(lambda words: words == ["sleep", MARK])


def attempts():
    return glob.glob(f"{GROUP}/attempt-*")


def members(group):
    with contextlib.suppress(OSError):
        return read(f"{group}/cgroup.procs").split()
    return []


def no_more_attempts():
    wait_for("the cgroups of attempts to go", lambda: not attempts())
    expect(not marked(), f"processes are left: {marked()}")


def the_server_shares_out_its_cgroup():
    typed("sudo -u cloacina cloacinactl --home /var/lib/cloacina config set task_slots 6")
    journal = Journal()
    typed("sudo systemctl restart cloacinactl")
    request("POST", "/tenants", '{"schema_name":"limits"}')
    for name, (script, lines) in TASKS.items():
        upload(name, script, lines)
    wait_for("the line about it", lambda: "each task has a cgroup of its own" in journal.text())
    expect(read(f"{GROUP}/cgroup.subtree_control") == "memory pids", read(f"{GROUP}/cgroup.subtree_control"))
    expect(str(server_pid()) in read(f"{GROUP}/server/cgroup.procs").split(), "the server is elsewhere")
    said = ended(execute("after"))
    expect(said["status"] == "Completed", said)
    no_more_attempts()
    return next(line for line in journal.text().splitlines() if "each task has" in line)[-110:]


def all_memory_ends_that_attempt_alone():
    server, beside = server_pid(), execute("beside")
    said = ended(execute("memory"))
    expect(said["error"] == "killed: more than max_memory = 64M", said)
    other = ended(beside)
    expect(other["status"] == "Completed" and server_pid() == server, other)
    no_more_attempts()


def all_processes_end_that_attempt_alone():
    server, bomb = server_pid(), execute("bomb")
    beside = execute("beside")
    wait_for("many of them", lambda: any(len(members(one)) > 400 for one in attempts()), 60)
    # Its share of the processors is not held, so the database may be slow for as long.
    wait_for("an answer", lambda: status("/auth/whoami", read(FIRST_KEY)) == 200, 60)
    said, other = ended(bomb), ended(beside)
    expect("; it wanted more than the " in said["error"], said)
    expect(other["status"] == "Completed" and server_pid() == server, other)
    no_more_attempts()
    return said["error"]


def a_task_stays_in_its_cgroup():
    """And what it closes there is opened again."""
    execution = execute("escapes")
    said = ended(execution)
    expect(said["status"] == "Completed" and log(execution) == "held\n", f"{said} {log(execution)}")
    no_more_attempts()
    said = ended(execute("memory"))
    expect(said["error"] == "killed: more than max_memory = 64M", said)


def what_a_killed_supervisor_ran_is_ended():
    """Killed together with the server, and what it ran is known by nothing but its cgroup."""
    execution = execute("daemon")
    wait_for("what it runs", lambda: len(marked()) == 3)
    old = server_pid()
    supervisors = processes(lambda words: "supervise-task" in words)
    for process in (old, *map(int, supervisors)):
        os.kill(process, signal.SIGKILL)
    wait_for("another server", lambda: shown("cloacinactl", "ActiveState") == "active" and server_pid() not in (0, old))
    said = ended(execution)
    expect(said["status"] == "Failed" and "supervisor was killed" in said["error"], said)
    no_more_attempts()


def expect_limited(process):
    """One that runs has its limits, also those of a server that was just started."""

    def is_limited():
        with contextlib.suppress(OSError):
            [group] = attempts()
            limit = read(f"{group}/memory.max"), read(f"{group}/memory.oom.group")
            return process in members(group) and limit == (str(MEMORY), "1")

    wait_for("the limits to hold", is_limited)


def tasks_and_their_limits_outlive_each_start():
    execution = execute("waits")
    [process] = wait_for("what it runs", marked)
    expect_limited(process)
    for change in ("restart", "kill -9", "stop", "daemon-reload", "restart"):
        old = server_pid()
        if change == "kill -9":
            os.kill(old, signal.SIGKILL)
            wait_for("another server", lambda: shown("cloacinactl", "ActiveState") == "active" and server_pid() not in (0, old))
        elif change == "stop":
            run(["systemctl", "stop", "cloacinactl.socket", "cloacinactl"])
            # As the README says: else it could not start.
            expect(read(f"{GROUP}/cgroup.subtree_control") == "" and marked() == [process], "it has limits, or has ended")
            run(["systemctl", "start", "cloacinactl.socket", "cloacinactl"])
        else:
            run(["systemctl", change, *(["cloacinactl"] if change == "restart" else [])])
        expect_limited(process)
        expect(marked() == [process], f"after {change}: {marked()}")
    os.kill(int(process), signal.SIGTERM)
    said = ended(execution)
    expect(said["attempts"] == 1 and said["status"] == "Completed", said)
    no_more_attempts()
    expect(status("/ready") == 200, status("/ready"))


def a_run_without_a_server_has_limits_in_a_scope():
    script, lines = TASKS["memory"]
    replace_file("/srv/trial/task", f"#!/bin/sh\n{script}\n", 0o755)
    replace_file("/srv/trial/package.toml", manifest("trial", lines))
    line = "cloacinactl workflow run /srv/trial --sandbox partial --task-user nobody"
    scope = re.search(r"`systemd-run --user (--scope [^`]*)`", read(README))[1]
    said = [run(["sh", "-c", f"{before} {line} 2>&1"], code=None) for before in (f"systemd-run --quiet {scope}", "")]
    wanted = "killed: more than max_memory = 64M"
    expect(wanted in said[0], said[0])
    expect("(1 completed)" in said[1], said[1])


CHECKS = [
    the_server_shares_out_its_cgroup,
    all_memory_ends_that_attempt_alone,
    all_processes_end_that_attempt_alone,
    a_task_stays_in_its_cgroup,
    what_a_killed_supervisor_ran_is_ended,
    tasks_and_their_limits_outlive_each_start,
    a_run_without_a_server_has_limits_in_a_scope,
]
