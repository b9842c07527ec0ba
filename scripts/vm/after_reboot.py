"""The same disk, booted once more: the server is up by itself. Then it is taken away, and begins anew."""

import os
import pwd

from lab import (
    CHECKOUT,
    FIRST_KEY,
    expect,
    expect_works,
    read,
    readme,
    replace_file,
    run,
    shown,
    status,
    typed,
    wait_for,
)

OWN_KEY = "a-first-key-of-ones-own-0123456789"
UNITS = [f"/etc/systemd/system/{name}" for name in ("cloacinactl.service", "cloacinactl.socket")]
PROGRAM = ["/usr/local/bin/cloacinactl", "/etc/sysusers.d/cloacinactl.conf", *UNITS]
REST = ["/etc/cloacina/database-url", "/var/lib/cloacina/config.toml", FIRST_KEY]


def it_is_up_after_a_reboot():
    wait_for("the server", lambda: shown("cloacinactl", "ActiveState") == "active", 60)
    expect(shown("cloacinactl", "NRestarts") == "0", "it needed more than one start")
    expect_works(read(FIRST_KEY))
    typed("cloacinactl health")


def it_starts_after_postgresql_and_ends_before_it():
    database = int(shown("postgresql@15-main", "ActiveEnterTimestampMonotonic"))
    server = int(shown("cloacinactl", "ExecMainStartTimestampMonotonic"))
    expect(0 < database < server, f"PostgreSQL was up after {database} µs, the server began after {server} µs")
    last = run(["journalctl", "--boot=-1", "--output=cat", "--lines=400", "--no-pager"])
    ends = [last.rfind(line) for line in ("Stopped cloacinactl.service", "Stopped postgresql@15-main.service")]
    expect(0 < ends[0] < ends[1], f"they stopped at {ends} of {last[-1500:]}")
    said = run(["journalctl", "--boot=-1", "--unit=cloacinactl", "--output=cat", "--lines=8", "--no-pager"])
    expect("drained" in said and "Deactivated successfully" in said, said)


def present(paths):
    return [path for path in paths if os.path.lexists(path)]


def uninstall_leaves_data_and_secrets():
    said = typed("sudo scripts/install.sh --uninstall")
    expect(present(PROGRAM) == [], f"it leaves {present(PROGRAM)}")
    expect(present(REST) == REST, f"it leaves only {present(REST)}")
    pwd.getpwnam("cloacina")
    expect("/etc/cloacina stays" in said and "/var/lib/cloacina stays" in said, said)
    expect(isinstance(status("/health"), str), f"somebody still answers: {status('/health')}")
    active = run(["systemctl", "is-active", "cloacinactl", "cloacinactl.socket"], code=None)
    expect(active.split() == ["inactive"] * 2, active)


def it_comes_back_with_the_old_key():
    said = typed("sudo scripts/install.sh target/release/cloacinactl && sudo systemctl start cloacinactl")
    expect("next: systemctl start cloacinactl" in said, said)
    expect_works(read(FIRST_KEY))


def purge_leaves_nothing():
    typed("sudo scripts/install.sh --uninstall --purge")
    every = [*PROGRAM, "/etc/cloacina", "/var/lib/cloacina", "/etc/systemd/system/cloacinactl.service.d"]
    expect(present(every) == [], f"it leaves {present(every)}")
    expect("cloacina" not in [user.pw_name for user in pwd.getpwall()], "the user stays")
    left = run(["find", "/etc", "/var/lib", "/run/systemd", "/usr/local", "-name", "*cloacina*"])
    expect(left == "", f"it leaves {left}")
    expect("there is nothing to remove" in typed("sudo scripts/install.sh --uninstall --purge"), "a second time")
    keys = run(["runuser", "-u", "postgres", "--", "psql", "-Atc", "SELECT count(*) FROM api_keys", "cloacina"])
    expect(int(keys) >= 2, f"{keys.strip()} keys are left in the database, which is not its own")


def a_first_key_of_ones_own():
    """As the unit's head says, with a database that has none."""
    lines = [line.strip() for line in readme("Under systemd").splitlines() if line.startswith("    sudo -u postgres")]
    typed("sudo -u postgres dropdb cloacina && sudo -u postgres dropuser cloacina\n" + "\n".join(lines))
    with open(f"{CHECKOUT}/scripts/deploy/cloacinactl.service", encoding="utf-8") as file:
        edited = [line[4:] for line in file if line.startswith("#   ")]
    expect(len(edited) == 3 and "/etc/cloacina/bootstrap-key" in edited[1], edited)
    replace_file("/root/database-url", "postgresql:///cloacina?host=/run/postgresql&user=cloacina\n", 0o600)
    typed("sudo scripts/install.sh --database-url-file /root/database-url target/release/cloacinactl")
    replace_file("/etc/cloacina/bootstrap-key", f"{OWN_KEY}\n", 0o600)
    replace_file("/etc/systemd/system/cloacinactl.service.d/override.conf", "".join(edited))
    run(["systemctl", "daemon-reload"])
    typed("sudo systemctl start cloacinactl")
    expect_works(OWN_KEY)
    expect(read(FIRST_KEY) == OWN_KEY, "the file has another")


CHECKS = [
    it_is_up_after_a_reboot,
    it_starts_after_postgresql_and_ends_before_it,
    uninstall_leaves_data_and_secrets,
    it_comes_back_with_the_old_key,
    purge_leaves_nothing,
    a_first_key_of_ones_own,
]
