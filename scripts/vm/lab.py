"""What the checks stand on, in the virtual machine: commands typed as a person types them, requests, waiting."""

import contextlib
import http.client
import os
import pty
import select
import subprocess
import threading
import time

CHECKOUT = "/home/admin/cloacinactl"
README = f"{CHECKOUT}/README.md"
FIRST_KEY = "/var/lib/cloacina/bootstrap-key"


class Seen(Exception):
    """What was seen instead of what was promised."""


def expect(holds, seen):
    if not holds:
        raise Seen(seen)


def wait_for(what, look, limit=30.0):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise Seen(f"waited {limit:.0f} s in vain for {what}")


# --- commands ---------------------------------------------------------------------------------------------------


def as_admin(command):
    home = ["env", "HOME=/home/admin", "USER=admin", "LOGNAME=admin"]
    return ["runuser", "-u", "admin", "--", *home, "bash", "-c", command]


def run(command, limit=120, code=0):
    """The output of a command of root's, which must end with this code; None stands for any."""
    done = subprocess.run(
        command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, check=False
    )
    expect(code in (None, done.returncode), f"{' '.join(command)}: {done.returncode} {done.stdout}{done.stderr}")
    return done.stdout


def typed(command, limit=120, code=0):
    """The same for what the administrator types in the checkout."""
    return run(as_admin(f"cd {CHECKOUT} && {{\n{command}\n}}"), limit, code)


def at_a_terminal(command, question, answer, limit=120):
    """Types a command, waits for its question, and gives an answer that is not shown; what the terminal showed."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(CHECKOUT)
        words = as_admin(command)
        os.execvp(words[0], words)
    shown, answered, until = "", False, time.monotonic() + limit
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            shown += os.read(terminal, 4096).decode()
        except OSError:  # So ends a terminal.
            break
        if question in shown and not answered:
            os.write(terminal, answer.encode() + b"\n")
            answered = True
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    expect(answered and code == 0, f"{command}: {code} {shown}")
    return shown


def readme(heading):
    """The text under a heading of the README."""
    with open(README, encoding="utf-8") as file:
        return file.read().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def replace_file(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)


def mode_and_owner(path):
    return run(["stat", "-c", "%a %U:%G", path]).strip()


# --- systemd ----------------------------------------------------------------------------------------------------

EDITED = "/etc/systemd/system/cloacinactl.service.d/override.conf"


def edit(lines):
    """What `systemctl edit cloacinactl` does, which wants a person."""
    replace_file(EDITED, f"[Service]\n{lines}\n")
    run(["systemctl", "daemon-reload"])


def undo_edit():
    os.remove(EDITED)
    run(["systemctl", "daemon-reload"])


def shown(unit, *names):
    """Properties of a unit, in that order."""
    said = dict(
        line.split("=", 1) for line in run(["systemctl", "show", unit, f"--property={','.join(names)}"]).splitlines()
    )
    values = [said[name] for name in names]
    return values[0] if len(values) == 1 else values


def server_pid():
    return int(shown("cloacinactl", "MainPID"))


class Journal:
    """What is said about the service from here on."""

    def __init__(self):
        # The unit's own last line: behind another's, systemd before 253 loses one.
        said = run(["journalctl", "--unit=cloacinactl", "--lines=1", "--show-cursor"])
        self.cursor = said.split("-- cursor: ")[1].strip()

    def text(self):
        run(["journalctl", "--sync"])
        return run(["journalctl", "--unit=cloacinactl", f"--after-cursor={self.cursor}", "--output=cat", "--no-pager"])

    def expect(self, *words):
        text = self.text()
        for word in words:
            expect(word in text, f"the journal does not say `{word}`: {text}")

    def expect_none(self, *words):
        text = self.text().lower()
        for word in words:
            expect(word not in text, f"the journal says `{word}`: {text}")


# --- requests ---------------------------------------------------------------------------------------------------


def answered(path, key=None, limit=30):
    """The status and the body of an answer, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=limit)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def ask(path, key=None, limit=30):
    return answered(path, key, limit)[0]


def status(path, key=None):
    """The same, or what went wrong."""
    try:
        return ask(path, key, 5)
    except (OSError, http.client.HTTPException) as error:
        return repr(error)


def expect_works(key):
    seen = ask("/auth/whoami", key)
    expect(seen == 200, f"GET /auth/whoami with the key: {seen}")


@contextlib.contextmanager
def steady_requests(key):
    """Two clients, each of which asks again and again on a new connection, and waits for each answer. What they saw."""
    seen, stop = [], threading.Event()

    def go_on():
        while not stop.is_set():
            began = time.monotonic()
            try:
                answer = answered("/auth/whoami", key)
            except (OSError, http.client.HTTPException) as error:
                answer = error
            seen.append((answer, time.monotonic() - began))
            stop.wait(0.01)

    threads = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        yield seen
        time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def expect_all_answered(seen):
    wrong = [one for one in seen if not isinstance(one[0], tuple) or one[0][0] != 200]
    expect(not wrong and len(seen) > 20, f"{len(wrong)} of {len(seen)} failed: {wrong[:3]}")
    return f"{len(seen)} requests, the longest {max(took for _, took in seen):.1f} s"
