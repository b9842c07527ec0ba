"""The README's section about systemd, under a real one; then everything that the units promise, until the reboot."""

import contextlib
import os
import re
import signal
import subprocess
import time

import limits
import tasks
from lab import (
    CHECKOUT,
    FIRST_KEY,
    Journal,
    at_a_terminal,
    edit,
    expect,
    expect_all_answered,
    expect_works,
    mode_and_owner,
    read,
    readme,
    replace_file,
    run,
    server_pid,
    shown,
    status,
    steady_requests,
    typed,
    undo_edit,
    wait_for,
)

# Instead of the unit's 30 s, so that nobody waits for long.
WATCHDOG = 4
RESTART = 5


def running_again(old):
    """The process that took the place of an old one."""

    def look():
        pid, state = shown("cloacinactl", "MainPID", "ActiveState")
        return int(pid) if state == "active" and int(pid) not in (0, old) else None

    return look


def the_readme_line_for_line():
    text = readme("Under systemd")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    # That was done where the virtual machine was made.
    expect(lines[0] == "cargo build --release --locked", f"the first line is another: {lines[0]}")
    url = re.search(r"\(here `(postgresql:[^`]*)`", text)[1]
    for line in lines[1:]:
        if "install.sh" not in line:
            key = typed(line)
            continue
        seen = at_a_terminal(line, "URL of the database", url)
        expect(url not in seen, f"the terminal shows the answer: {seen}")
    expect(lines[-1].endswith(FIRST_KEY) and re.fullmatch(r"clk_[\w-]{49}\n", key), f"`{lines[-1]}` prints {key!r}")


def the_first_key_works_with_curl():
    key = read(FIRST_KEY)
    said = typed(f"curl -sS -i http://localhost:8080/auth/whoami -H 'Authorization: Bearer {key}'")
    expect(said.startswith("HTTP/1.1 200") and '"admin"' in said, said)


def it_is_active_once_it_serves():
    state = shown("cloacinactl", "ActiveState", "SubState", "Type", "NotifyAccess", "Result", "NRestarts")
    expect(state == ["active", "running", "notify", "main", "success", "0"], state)


def the_socket_holds_the_address():
    said = run(["ss", "-Hltnp", "sport = :8080"])
    expect(len(said.splitlines()) == 1 and " 127.0.0.1:8080 " in said and '"systemd",pid=1,' in said, said)
    expect(shown("cloacinactl.socket", "SubState") == "running", shown("cloacinactl.socket", "SubState"))


def the_secret_stays_secret():
    expect(mode_and_owner("/etc/cloacina") == "700 root:root", mode_and_owner("/etc/cloacina"))
    secret = "/etc/cloacina/database-url"
    expect(mode_and_owner(secret) == "600 root:root", mode_and_owner(secret))
    pid = server_pid()
    for place in ("environ", "cmdline"):
        with open(f"/proc/{pid}/{place}", "rb") as file:
            held = file.read().split(b"\0")
        expect(not any(b"postgresql:" in part or part.startswith(b"DATABASE_URL=") for part in held), held)
    seen = typed("cat /run/credentials/cloacinactl.service/database-url 2>&1", code=1)
    expect("Permission denied" in seen, seen)


def it_has_no_rights():
    said = dict(line.split(":", 1) for line in read(f"/proc/{server_pid()}/status").splitlines())
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    expect(all(int(said[name], 16) == 0 for name in names), {name: said[name].strip() for name in names})
    flags = [said[name].strip() for name in ("NoNewPrivs", "Seccomp")]
    expect(flags == ["1", "2"], f"NoNewPrivs, Seccomp: {flags}")
    user = run(["id", "-u", "cloacina"]).strip()
    expect(said["Uid"].split() == [user] * 4, f"Uid: {said['Uid']}, and cloacina is {user}")


def it_may_write_to_its_own_directory_alone():
    view = ["nsenter", f"--target={server_pid()}", "--mount"]
    for place in ("/etc", "/usr/local/bin", "/var/lib", "/opt"):
        run([*view, "touch", f"{place}/written"], code=1)
    run([*view, "touch", "/var/lib/cloacina/written"])
    os.remove("/var/lib/cloacina/written")
    expect(run([*view, "ls", "-A", "/home"]) == "", "it sees /home")


def its_files_are_its_own():
    for path, wanted in (
        ("/var/lib/cloacina", "700 cloacina:cloacina"),
        (FIRST_KEY, "600 cloacina:cloacina"),
        ("/var/lib/cloacina/logs/cloacina-server.log", "600 cloacina:cloacina"),
    ):
        expect(mode_and_owner(path) == wanted, f"{path} is {mode_and_owner(path)}")
    expect('"serving"' in read("/var/lib/cloacina/logs/cloacina-server.log"), "the log does not say that it serves")


def it_is_little_exposed():
    said = typed("systemd-analyze security --no-pager cloacinactl")
    found = re.search(r"Overall exposure level for cloacinactl\.service: ([0-9.]+)", said)
    expect(found and float(found[1]) <= 2.0, said[-300:])
    return found[1]


def it_is_enabled():
    said = typed("systemctl is-enabled cloacinactl.service cloacinactl.socket")
    expect(said.split() == ["enabled", "enabled"], said)


def settings_and_keys_as_the_readme_says():
    text = " ".join(readme("Under systemd").split())
    set_one = "sudo -u cloacina cloacinactl --home /var/lib/cloacina config set KEY VALUE"
    manage = "sudo -u cloacina cloacinactl keys ..."
    expect(set_one in text and manage in text, "the README says it in other words")
    typed(set_one.replace("KEY VALUE", "workers 5"))
    url = read("/etc/cloacina/database-url")
    key = typed(manage.replace("...", f"create --name made-without-a-server --database-url '{url}'")).strip()
    expect_works(key)
    typed("sudo systemctl restart cloacinactl")
    expect_works(key)
    names = run(["sh", "-c", f"cat /proc/{server_pid()}/task/*/comm"]).split()
    workers = sum(name.startswith("read-") for name in names)
    expect(workers == 5, f"{workers} workers: {names}")


def a_restart_refuses_nobody():
    key, old = read(FIRST_KEY), server_pid()
    with steady_requests(key) as seen:
        typed("sudo systemctl restart cloacinactl")
    expect(server_pid() != old, "it is the same process")
    return expect_all_answered(seen)


def a_newer_binary_refuses_nobody():
    """The same program with something behind its end, which is another file and runs as well."""
    key = read(FIRST_KEY)
    typed("cp target/release/cloacinactl target/newer && echo newer >>target/newer")
    with steady_requests(key) as seen:
        said = typed("sudo scripts/install.sh target/newer")
        expect("next: systemctl restart cloacinactl" in said, said)
        typed("sudo systemctl restart cloacinactl")
    run(["cmp", f"/proc/{server_pid()}/exe", f"{CHECKOUT}/target/newer"])
    said = typed("sudo scripts/install.sh target/newer")
    expect("there is nothing to change" in said, said)
    return expect_all_answered(seen)


@contextlib.contextmanager
def locked_table():
    """Requests to the database wait for as long as this lasts."""
    psql = ["runuser", "-u", "postgres", "--", "psql", "--quiet", "--no-psqlrc", "cloacina"]
    with subprocess.Popen(psql, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        session.stdin.write("BEGIN; LOCK TABLE api_keys;\n\\echo locked\n")
        session.stdin.flush()
        session.stdout.readline()
        yield


def a_stop_finishes_what_is_under_way():
    journal, key = Journal(), read(FIRST_KEY)
    with locked_table():
        request = subprocess.Popen(
            ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {key}"]
            + ["http://127.0.0.1:8080/auth/keys"],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(1)
        began = time.monotonic()
        stop = subprocess.Popen(["systemctl", "stop", "cloacinactl"], stderr=subprocess.DEVNULL)
        wait_for("the drain", lambda: "draining" in journal.text(), 10)
        expect(shown("cloacinactl", "ActiveState") == "deactivating", "it does not wait for the request")
    answer, code = request.communicate(timeout=60)[0], stop.wait(60)
    took = time.monotonic() - began
    expect(answer == "200" and code == 0, f"the request was answered {answer}, and `systemctl stop` ended with {code}")
    ended = shown("cloacinactl", "ActiveState", "Result", "ExecMainCode", "ExecMainStatus")
    expect(ended == ["inactive", "success", "1", "0"], ended)
    journal.expect("drained")
    journal.expect_none("timed out", "killed", "killing", "failed")
    expect(took < 10, f"it took {took:.1f} s")
    return f"{took:.1f} s"


def a_request_starts_it_again():
    """The socket is still there."""
    expect(shown("cloacinactl", "ActiveState") == "inactive", "it runs")
    expect_works(read(FIRST_KEY))
    expect(shown("cloacinactl", "ActiveState") == "active", "it does not run")


def a_stop_for_good():
    line = re.search(r"`(sudo systemctl stop [^`]*)`", " ".join(readme("Under systemd").split()))[1]
    typed(line)
    seen = status("/health")
    expect("ConnectionRefusedError" in str(seen), f"after `{line}`: {seen}")
    expect(shown("cloacinactl", "ActiveState") == "inactive", "it runs")
    typed("sudo systemctl start cloacinactl")
    expect_works(read(FIRST_KEY))


def a_hung_server_is_replaced():
    edit(f"WatchdogSec={WATCHDOG}s")
    typed("sudo systemctl restart cloacinactl")
    key, old, journal = read(FIRST_KEY), server_pid(), Journal()
    time.sleep(WATCHDOG * 2)
    expect(server_pid() == old, "it was replaced before it hung")
    os.kill(old, signal.SIGSTOP)
    began = time.monotonic()
    wait_for("another process", running_again(old), 60)
    took = time.monotonic() - began
    expect_works(key)
    journal.expect("Watchdog timeout", "Failed with result 'watchdog'")
    expect(took < WATCHDOG + RESTART + 8, f"it took {took:.1f} s")
    return f"{took:.1f} s"


def a_database_that_is_away_is_waited_for():
    """With the same watchdog."""
    old, restarts, key = server_pid(), shown("cloacinactl", "NRestarts"), read(FIRST_KEY)
    run(["systemctl", "stop", "postgresql"])
    wait_for("/ready to say it", lambda: status("/ready") == 503)
    until = time.monotonic() + 3 * WATCHDOG
    while time.monotonic() < until:
        seen = status("/ready"), status("/health"), status("/auth/whoami", key)
        expect(seen == (503, 200, 503), f"/ready, /health, /auth/whoami: {seen}")
        time.sleep(0.5)
    run(["systemctl", "start", "postgresql"])
    wait_for("/ready to say it", lambda: status("/ready") == 200)
    expect_works(key)
    expect((server_pid(), shown("cloacinactl", "NRestarts")) == (old, restarts), "it was started again")
    undo_edit()


def a_killed_server_is_replaced():
    """And who comes meanwhile waits, and is answered."""
    key, old, before = read(FIRST_KEY), server_pid(), int(shown("cloacinactl", "NRestarts"))
    os.kill(old, signal.SIGKILL)
    began = time.monotonic()
    expect_works(key)
    took = time.monotonic() - began
    wait_for("another process", running_again(old))
    now = int(shown("cloacinactl", "NRestarts"))
    expect(now == before + 1, f"{now - before} restarts")
    return f"{took:.1f} s"


def a_wrong_setting_is_not_tried_again():
    run(["systemctl", "reset-failed", "cloacinactl"])
    edit("Environment=CLOACINA_WORKERS=many")
    journal = Journal()
    typed("sudo systemctl restart cloacinactl", code=1)
    time.sleep(RESTART + 2)
    ended = shown("cloacinactl", "ActiveState", "Result", "ExecMainStatus", "NRestarts")
    expect(ended == ["failed", "exit-code", "2", "0"], ended)
    journal.expect("CLOACINA_WORKERS")
    journal.expect_none("scheduled restart")


def a_wrong_setting_that_is_mended():
    """Even while clients come, each of whom has it started once more, until systemd has enough of it."""
    undo_edit()
    settings = "/var/lib/cloacina/config.toml"
    right = read(settings)
    replace_file(settings, f"{right}\npool_size = 0\n", 0o600)
    typed("sudo systemctl restart cloacinactl", code=1)
    for _ in range(14):
        status("/health")
    replace_file(settings, f"{right}\n", 0o600)
    limit = shown("cloacinactl.socket", "Result")
    expect(limit == "service-start-limit-hit", f"the socket's result is {limit}")
    typed("sudo systemctl restart cloacinactl", code=1)
    line = re.search(r"`(sudo systemctl reset-failed [^`]*)`", " ".join(readme("Under systemd").split()))[1]
    typed(f"{line}\nsudo systemctl restart cloacinactl")
    expect_works(read(FIRST_KEY))
    the_socket_holds_the_address()


CHECKS = [
    the_readme_line_for_line,
    the_first_key_works_with_curl,
    it_is_active_once_it_serves,
    the_socket_holds_the_address,
    the_secret_stays_secret,
    it_has_no_rights,
    it_may_write_to_its_own_directory_alone,
    its_files_are_its_own,
    *tasks.CHECKS,
    it_is_little_exposed,
    it_is_enabled,
    settings_and_keys_as_the_readme_says,
    *limits.CHECKS,
    a_restart_refuses_nobody,
    a_newer_binary_refuses_nobody,
    a_stop_finishes_what_is_under_way,
    a_request_starts_it_again,
    a_stop_for_good,
    a_hung_server_is_replaced,
    a_database_that_is_away_is_waited_for,
    a_killed_server_is_replaced,
    a_wrong_setting_is_not_tried_again,
    a_wrong_setting_that_is_mended,
]
