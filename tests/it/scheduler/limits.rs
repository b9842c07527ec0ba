//! What a task may use up: files, and its log.

use super::{Lab, find, start_with};
use crate::support::directory::Directory;
use crate::support::postgres::Database;
use crate::support::wait_for;

#[test]
fn a_task_that_writes_more_than_its_tenant_may_fails_and_says_so() {
    let lab = Lab::start(2);
    lab.site
        .server
        .patch("/tenants/acme", &lab.site.admin, r#"{"max_scratch_bytes":1000000}"#)
        .expect_status(200);
    let script =
        |bytes: usize| format!("head -c {bytes} /dev/zero >\"$TMPDIR/file\"; sleep \"${{SECONDS_LEFT:-0}}\"");
    lab.upload("little", "", &[("only", &script(500_000), "")]);
    lab.upload("much", "env = { SECONDS_LEFT = \"1000\" }", &[("only", &script(3_000_000), "")]);
    assert_eq!(lab.run("little", "")["status"], "Completed");
    let ended = lab.run("much", "");
    assert_eq!(ended["status"], "Failed", "{ended:#}");
    let error = find(&ended, "only")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("at most 1000000 are allowed"), "{error}");
}

#[test]
fn a_long_log_keeps_its_beginning_and_its_end_and_can_be_followed() {
    let (database, home) = (Database::new(), Directory::new());
    let server = start_with(&database, &home, 2, ["--task-log-limit", "64K"]);
    let lab = Lab::of(database, server, home);
    // Each line has its number, 20 MiB of them in all.
    let script = "echo first; while [ ! -e \"$shared/go\" ]; do sleep 0.02; done; seq -f '%015.0f' 1 1310720; echo last";
    lab.upload("prints", "", &[("only", script, "")]);
    let id = lab.execute("prints", "");
    let part = |after: u64| {
        let part = lab.get(&format!("executions/{id}/tasks/only/log?after={after}")).expect_status(200);
        let next: u64 = part.header("X-Log-Next").unwrap().parse().unwrap();
        (part.text().to_owned(), next)
    };
    let (mut followed, mut after) =
        wait_for("the first line", || Some(part(0)).filter(|(_, next)| *next > 0));
    assert_eq!((followed.as_str(), after), ("first\n", 6));
    lab.allow("go");
    loop {
        let has_ended = lab.execution(&id)["status"] != "Running";
        let (text, next) = part(after);
        followed += &text;
        if has_ended && next == after {
            break;
        }
        after = next;
    }
    let printed = 6 + 1_310_720 * 16 + 5;
    assert_eq!(after, printed);
    let whole = lab.log(&id, "only");
    for log in [&followed, &whole] {
        assert!(log.starts_with("first\n000000000000001\n000000000000002\n"), "{}", &log[..100]);
        assert!(log.ends_with("\n000000001310720\nlast\n"), "{}", &log[log.len() - 100..]);
        // What is missing, and what there is, is all of it.
        let (mut missing, mut there) = (0, 0);
        for line in log.split_inclusive('\n') {
            match line.strip_suffix(" bytes of the log are missing here]\n") {
                Some(gap) => missing += gap.trim_start_matches('[').parse::<u64>().unwrap(),
                None => there += line.len() as u64,
            }
        }
        // A gap in the middle of a line has a line of its own.
        assert!((printed..=printed + 8).contains(&(missing + there)), "{missing} + {there}");
        assert!(missing > 0);
    }
    assert!(whole.len() > 40_000 && whole.len() < 100_000, "{}", whole.len());
    let is_right = "SELECT log_kept_bytes = (SELECT sum(octet_length(bytes)) FROM cloacina_log_pieces) FROM cloacina_attempts";
    assert!(lab.site.database.value::<bool>(is_right));
}
