//! How an attempt ends, what its task sees, and what comes of its output.

use serde_json::{Value, json};

use super::attempt::{As, Attempt, both};

fn signaled(signal: i32, name: &str) -> Value {
    json!({"signaled": {"signal": signal, "name": name}})
}

#[test]
fn an_attempt_ends_as_its_command_does() {
    for supervisor in both() {
        for (script, end) in [
            ("exit 0", json!({"exited": 0})),
            ("exit 3", json!({"exited": 3})),
            ("exit 127", json!({"exited": 127})),
            ("exit 255", json!({"exited": 255})),
            ("kill -s SEGV $$", signaled(11, "SIGSEGV")),
            ("kill -s KILL $$", signaled(9, "SIGKILL")),
            ("kill -s TERM $$", signaled(15, "SIGTERM")),
            ("kill -s PIPE $$", signaled(13, "SIGPIPE")),
            ("kill -34 $$", signaled(34, "signal 34")),
            ("kill -s XFSZ $$", signaled(25, "SIGXFSZ")),
            ("exec >/dev/null 2>&1 <&-; exit 4", json!({"exited": 4})),
        ] {
            Attempt::script(supervisor, script).run().expect_end(end);
        }
    }
}

#[test]
fn a_command_that_cannot_be_started_fails_with_the_reason() {
    for supervisor in both() {
        for (command, why) in [
            (vec!["no-such-command"], "no-such-command"),
            (vec!["/etc/passwd"], "/etc/passwd"),
            (vec!["/nowhere/at/all"], "/nowhere/at/all"),
        ] {
            let outcome = Attempt::new(supervisor, &command).run();
            assert!(outcome.failed().contains(why), "{}", outcome.outcome);
            assert_eq!(outcome.outcome["log_bytes"], 0);
        }
        let outcome = Attempt::new(supervisor, &["true"]).with("working_directory", "/nowhere").run();
        assert!(outcome.failed().contains("/nowhere"), "{}", outcome.outcome);
    }
}

#[test]
fn what_is_no_specification_is_said() {
    for (spec, why) in [
        ("{", "EOF while parsing"),
        ("{\"format\": 2}", "its format is 2, and this version reads 1 alone"),
        ("{\"format\": 1}", "missing field `command`"),
    ] {
        let attempt = Attempt::new(As::Plain, &["true"]);
        attempt.make();
        std::fs::write(attempt.path().join("spec.json"), spec).unwrap();
        let command = attempt.command();
        let outcome = attempt.start_as(command).ended();
        assert!(outcome.failed().contains(why), "{}", outcome.outcome);
    }
}

#[test]
fn a_task_sees_its_context_its_environment_and_three_descriptors() {
    for supervisor in both() {
        let mut attempt = Attempt::script(
            supervisor,
            "cat; echo; env | sort; ls /proc/self/fd | wc -l; umask; grep SigBlk /proc/self/status;
             echo $(( 0x$(sed -n 's/^SigIgn:.//p' /proc/self/status) & 0x7fffffff ));
             ps -o pgid= -o ppid= -p $$ 2>/dev/null | awk -v own=$$ '{print ($1 == own)}'; ls $HOME/..",
        );
        attempt.context = json!({"rows": 7});
        attempt.secrets = json!({"TOKEN": "s3cr", "OTHER": "\"quoted\" \u{e9}"});
        let task = attempt.path().join("task").to_string_lossy().into_owned();
        let here = attempt.directory.path().to_string_lossy().into_owned();
        let mut command = attempt.command();
        command.env("SERVERS_OWN", "1").env("CLOACINA_HOME", "/x");
        attempt.make();
        let outcome = attempt.start_as(command).ended().expect_end(json!({"exited": 0}));
        let mut seen = vec![
            r#"{"rows":7}"#.to_owned(),
            format!("HERE={here}"),
            format!("HOME={task}/home"),
            "LANG=C.UTF-8".to_owned(),
            "OTHER=***".to_owned(),
            format!("OUT={task}/output.json"),
            "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
            "PWD=/".to_owned(),
            format!("TMPDIR={task}/home"),
            "TOKEN=s3cr".to_owned(),
        ];
        // What ls has open itself is the fourth. Signals 32 and 33 are the C library's, which lets no program set them.
        seen.extend(["4", "0022", "SigBlk:\t0000000000000000", "0", "1"].map(str::to_owned));
        seen.extend(["context.json", "home"].map(str::to_owned));
        assert_eq!(outcome.log_text().lines().collect::<Vec<_>>(), seen);
    }
}

#[test]
fn stdout_and_stderr_are_one_and_in_order() {
    let outcome = Attempt::script(As::Plain, "for n in 1 2 3 4; do echo out $n; echo err $n >&2; done").run();
    let expected: String = (1..=4).map(|n| format!("out {n}\nerr {n}\n")).collect();
    assert_eq!(outcome.log_text(), expected);
    assert_eq!(outcome.outcome["log_bytes"], expected.len());
    assert_eq!(outcome.outcome["log_kept_bytes"], expected.len());
}

#[test]
fn an_output_is_a_json_object_in_a_plain_file() {
    let too_large =
        "printf '{\"a\":\"' >$OUT; head -c 1048576 /dev/zero | tr '\\0' x >>$OUT; printf '\"}' >>$OUT";
    let deep = "python3 -c 'print(\"{\\\"a\\\":\" + \"[\" * 500 + \"]\" * 500 + \"}\")' >$OUT";
    for supervisor in both() {
        for (script, why) in [
            ("echo '[1]' >$OUT", "output.json is an array; write a JSON object such as {\"rows\": 7}"),
            (
                "echo '{\"a\": 1' >$OUT",
                "output.json is no JSON: EOF while parsing an object at line 2 column 0",
            ),
            (">$OUT", "output.json is empty; write a JSON object, or no file"),
            ("printf '{\"a\":\"\\377\"}' >$OUT", "output.json is not UTF-8 at byte 6; write JSON in UTF-8"),
            (
                "printf '{\"a\":\"\\\\u0000\"}' >$OUT",
                "output.json holds \\u0000, which PostgreSQL cannot store",
            ),
            ("mkfifo $OUT", "output.json is a pipe or a device; write a plain file"),
            ("mkdir $OUT", "output.json is a directory; write a plain file"),
            ("ln -s /etc/passwd $OUT", "output.json is a link; write a plain file"),
            ("ln -s /nowhere $OUT", "output.json is a link; write a plain file"),
            ("echo '{}' >$HOME/x; ln -s home/x $OUT", "output.json is a link; write a plain file"),
            (too_large, "output.json has 1048584 bytes; at most 1048576 are allowed"),
            (deep, "output.json is nested too deeply: 127 levels are the most"),
        ] {
            let outcome = Attempt::script(supervisor, script).run();
            assert!(outcome.failed().starts_with(why), "{script}: {}", outcome.outcome);
            assert_eq!(outcome.outcome["output"], Value::Null);
        }
        let text = "{\"rows\": 12345678901234567890123, \"b\": [\"\\\\u0000\"]}\n";
        let script = format!("cat >$OUT <<'END'\n{text}END");
        let outcome = Attempt::script(supervisor, &script).run().expect_end(json!({"exited": 0}));
        assert_eq!(outcome.outcome["output"], text, "as it was written, to the last digit");
        let outcome = Attempt::new(supervisor, &["true"]).run().expect_end(json!({"exited": 0}));
        assert_eq!(outcome.outcome["output"], Value::Null);
        // What failed has no output, and fails for its own reason.
        let outcome = Attempt::script(supervisor, "echo '[' >$OUT; exit 2").run();
        let outcome = outcome.expect_end(json!({"exited": 2}));
        assert_eq!(outcome.outcome["output"], Value::Null);
    }
}

#[test]
fn an_output_of_almost_a_mebibyte_is_kept() {
    let script =
        "printf '{\"a\":\"' >$OUT; head -c 1048568 /dev/zero | tr '\\0' x >>$OUT; printf '\"}' >>$OUT";
    let outcome = Attempt::script(As::Plain, script).run().expect_end(json!({"exited": 0}));
    assert_eq!(outcome.outcome["output"].as_str().map(str::len), Some(1_048_576));
}

#[test]
fn a_task_whose_files_take_too_much_is_ended() {
    for supervisor in both() {
        let limit = 8 << 20;
        let limited = |script: &str| Attempt::script(supervisor, script).with("scratch_limit_bytes", limit);
        for script in [
            "head -c 20M /dev/zero >$HOME/file; trap '' TERM; sleep 60",
            "mkdir -p $HOME/a/b/c; for n in 1 2 3 4 5 6; do head -c 2M /dev/zero >$HOME/a/b/c/$n; done; sleep 60",
            "head -c 20M /dev/zero >$OUT; sleep 60",
        ] {
            let outcome = limited(script).run();
            let (why, told) = (outcome.failed(), "bytes or more; at most 8388608 are allowed");
            assert!(why.starts_with("its files take ") && why.ends_with(told), "{}", outcome.outcome);
        }
        let deep =
            "import os\nfor n in range(300):\n os.mkdir('d'); os.chdir('d')\nimport time; time.sleep(60)";
        let script = format!("cd $HOME; exec python3 -c \"{deep}\"");
        let outcome = limited(&script).run();
        assert_eq!(outcome.failed(), "its directories are nested more than 128 levels deep");
        // Of a sparse file the blocks count. Two looks take place while it is there.
        let sparse = "truncate -s 1G $HOME/sparse; ln -s /usr $HOME/link; sleep 2.5";
        limited(sparse).run().expect_end(json!({"exited": 0}));
    }
}
