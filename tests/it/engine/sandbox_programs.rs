//! Ordinary programs in the sandbox, which have to work as they do outside it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::task::Task;

/// Scripts of bash, and what they print. Programs that a host may lack are in `ON_SOME`.
const SCRIPTS: &[(&str, &str)] = &[
    ("echo one two | tr ' ' '\\n' | sort -r | head -1", "two"),
    ("f() { cat <<<here; }; f; cat < <(echo there)", "here\nthere"),
    ("echo text >\"$TMPDIR/file\" && mv \"$TMPDIR/file\" \"$HOME/other\" && cat \"$HOME/other\"", "text"),
    (
        "mkdir -p $HOME/a/b && touch $HOME/a/b/c && mv $HOME/a/b/c $HOME/a/c && ln $HOME/a/c $HOME/d && rm -r $HOME/a && ls $HOME",
        "d",
    ),
    ("mkfifo $HOME/pipe; (echo through >$HOME/pipe &); cat $HOME/pipe", "through"),
    (
        "echo lost >/dev/null; head -c 4 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c; cat /dev/stdin </dev/null",
        "4\n8",
    ),
    ("echo out >/dev/stdout; echo fd >/dev/fd/1", "out\nfd"),
    ("TZ=America/New_York date -d @0 +%H:%M; date -d @0 -u +%Y", "19:00\n1970"),
    ("awk 'BEGIN { print 6 * 7 }'", "42"),
    ("seq 300000 | sort -S 1M -n -r | head -1", "300000"),
    (
        "tar -C $HOME -czf $TMPDIR/archive.tgz --files-from /dev/null && tar -tzf $TMPDIR/archive.tgz; echo $?",
        "0",
    ),
    ("getent hosts localhost | grep -c localhost", "1"),
    ("getent passwd root | cut -d: -f1", "root"),
    ("sleep 60 & kill $!; wait $!; echo $?", "143"),
    ("timeout 0.1 sleep 60; echo $?", "124"),
    ("ps -o pid= -p $$ | grep -c .", "1"),
    (
        "printf '#!/bin/sh\\necho made here\\n' >$TMPDIR/made && chmod +x $TMPDIR/made && $TMPDIR/made",
        "made here",
    ),
    ("find / -maxdepth 1 2>/dev/null; echo $?", "/\n1"),
    ("nproc >/dev/null && df $HOME >/dev/null && free >/dev/null 2>&1; uname -s", "Linux"),
];

/// The same for programs that not every host has: by the program's name.
const ON_SOME: &[(&str, &str, &str)] = &[
    ("nice", "nice -n 5 nice", "5"),
    ("ionice", "ionice -c 3 echo idle", "idle"),
    ("chrt", "chrt -i 0 echo idle", "idle"),
    ("taskset", "taskset $(taskset -p $$ | sed 's/.*: //') echo pinned", "pinned"),
    (
        "python3",
        "python3 -c 'import os, threading; os.sched_setaffinity(threading.get_native_id(), os.sched_getaffinity(0)); print(os.nice(1))'",
        "1",
    ),
    (
        "perl",
        "perl -e 'print join(\",\", sort map { $_ * 2 } 1..3), \"\\n\"; system(\"echo child\")'",
        "2,4,6\nchild",
    ),
    (
        "git",
        "cd $HOME && git init -q a && cd a && echo x >f && git add f && git -c user.name=n -c user.email=e commit -qm m && git log --format=%s && git clone -q . ../b 2>&1 && ls ../b",
        "m\nf",
    ),
    (
        "node",
        "node -e 'const cp = require(\"child_process\"); console.log(cp.execFileSync(\"echo\", [\"child\"]).toString().trim()); new (require(\"worker_threads\").Worker)(\"console.log(1 + 1)\", { eval: true })'",
        "child\n2",
    ),
    ("python3", PYTHON, "child\n[0, 1, 4]\n3\nno shared memory"),
    (
        "python3",
        "python3 - <<'X'\nimport ssl, sqlite3, os\nd = sqlite3.connect(os.environ['HOME'] + '/d')\nd.execute('create table t(x)'); d.execute('insert into t values (1)'); d.commit()\nprint(d.execute('select x from t').fetchone()[0], len(ssl.create_default_context().get_ca_certs()) >= 0)\nX",
        "1 True",
    ),
];

/// Processes, threads, temporary files; and what is documented to fail, since /dev/shm is closed.
const PYTHON: &str = r#"python3 - <<'X'
import concurrent.futures, multiprocessing, subprocess, tempfile
print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout.strip())
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    print(list(pool.map(lambda x: x * x, range(3))))
reader, writer = multiprocessing.Pipe()
process = multiprocessing.get_context("fork").Process(target=lambda: writer.send(3))
process.start(); print(reader.recv()); process.join()
tempfile.TemporaryFile().write(b"x")
try:
    multiprocessing.Lock()
except OSError:
    print("no shared memory")
X"#;

#[track_caller]
fn expect_printed(script: &str, wanted: &str) {
    let outcome = Task::script(script).run();
    assert_eq!(outcome.ended.stdout.trim_end(), wanted, "{script}\n{outcome:#?}");
}

#[test]
fn what_every_host_has() {
    for (script, wanted) in SCRIPTS {
        expect_printed(script, wanted);
    }
}

#[test]
fn what_some_hosts_have() {
    for (program, script, wanted) in ON_SOME {
        let is_there = Task::script(&format!("command -v {program} >/dev/null && {program} --version")).run();
        if is_there.ended.status.success() {
            expect_printed(script, wanted);
        }
    }
}

/// As the README says of what a task is denied.
#[test]
fn a_path_that_the_administrator_allows() {
    let script = "python3 -c 'import multiprocessing; print(multiprocessing.Lock())'";
    let mut task = Task::script(script);
    assert!(!task.run().ended.status.success(), "/dev/shm is closed");
    task.spec["sandbox"]["writable"].as_array_mut().unwrap().push("/dev/shm".into());
    assert_eq!(task.succeeds(), "<Lock(owner=None)>\n");
}

#[test]
fn the_network_is_open() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nanswer\n")
            .unwrap();
    });
    expect_printed(&format!("curl -sS http://localhost:{port}/"), "answer");
    answering.join().unwrap();
}

/// Our own program, which is a static one in the tests of that.
#[test]
fn a_program_in_the_package() {
    let program = std::fs::read(crate::support::program::binary()).unwrap();
    let task = Task::new(&["./program", "--version"]).with("program", 0o755, program);
    assert!(task.succeeds().starts_with("cloacinactl "));
}
