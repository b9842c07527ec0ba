//! Executions that go wrong in the database: they stop nothing else, and go on where that can be mended.

use super::{Lab, WAITS, find, start};
use crate::support::program::send_signal;
use crate::support::wait_for;

/// Refuses a change of the task `bad` to this status.
fn refuse(lab: &Lab, status: &str, how: &str) {
    lab.site.database.execute(&format!(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {how}; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON cloacina_tasks FOR EACH ROW
         WHEN (NEW.id = 'bad' AND NEW.status = '{status}') EXECUTE FUNCTION refuse()"
    ));
}

fn allow_again(lab: &Lab) {
    lab.site.database.execute("DROP TRIGGER refuse ON cloacina_tasks");
}

#[test]
fn an_end_that_takes_too_long_to_write_down_stops_no_other_one() {
    let lab = Lab::start(3);
    lab.upload("bad", "", &[("bad", "echo ran >>$shared/bad", "")]);
    lab.upload("good", "", &[("only", "true", "")]);
    refuse(&lab, "Completed", "PERFORM pg_sleep(3600)");
    let id = lab.execute("bad", "");
    lab.written("bad");
    for _ in 0..3 {
        assert_eq!(lab.run("good", "")["status"], "Completed");
    }
    assert_eq!(lab.execution(&id)["status"], "Running");
    allow_again(&lab);
    assert_eq!(lab.ended(&id)["status"], "Completed");
    assert_eq!(lab.written("bad"), "ran\n");
}

#[test]
fn a_claim_that_is_refused_stops_no_other_one() {
    let lab = Lab::start(2);
    lab.upload("bad", "", &[("bad", "true", "")]);
    lab.upload("good", "", &[("only", "true", "")]);
    refuse(&lab, "Running", "RAISE EXCEPTION 'no'");
    let id = lab.execute("bad", "");
    for _ in 0..3 {
        assert_eq!(lab.run("good", "")["status"], "Completed");
    }
    assert_eq!(lab.execution(&id)["status"], "Pending");
    allow_again(&lab);
    assert_eq!(lab.ended(&id)["status"], "Completed");
}

#[test]
fn a_task_whose_package_cannot_be_read_waits_longer_each_time() {
    let lab = Lab::start(2);
    lab.upload("p", "", &[("only", "true", "")]);
    lab.site.database.execute("ALTER TABLE cloacina_package_pieces RENAME TO hidden");
    let id = lab.execute("p", "");
    let waits = || {
        let events = lab.get(&format!("executions/{id}/events")).expect_status(200).json();
        let waits =
            events.as_array().unwrap().iter().filter_map(|event| event["event_data"]["delay_ms"].as_u64());
        waits.collect::<Vec<_>>()
    };
    let waited =
        wait_for("two starts that came to nothing", || Some(waits()).filter(|waits| waits.len() >= 2));
    assert_eq!(waited[..2], [1000, 2000]);
    lab.site.database.execute("ALTER TABLE hidden RENAME TO cloacina_package_pieces");
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Completed");
    assert_eq!(find(&ended, "only")["attempts"], 1);
}

#[test]
fn tasks_that_would_read_too_much_fail_and_say_so() {
    let lab = Lab::start(3);
    lab.upload(
        "much",
        "",
        &[
            ("large", "true", ""),
            ("gate", WAITS, ""),
            ("reads", "true", "dependencies = [\"large\", \"gate\"]"),
            (
                "decides",
                "true",
                "dependencies = [\"large\", \"gate\"]\nrun_if = { context = \"a\", equals = 1 }",
            ),
            ("free", "true", "dependencies = [\"gate\"]"),
        ],
    );
    let id = lab.execute("much", "");
    lab.wait_for_task(&id, "large", "Completed");
    lab.site.database.execute(
        "UPDATE cloacina_tasks SET output = '{\"b\":\"' || repeat('x', 70000000) || '\"}' WHERE id = 'large'",
    );
    lab.allow("go");
    let ended = lab.ended(&id);
    assert_eq!(ended["status"], "Failed", "{ended:#}");
    for task in ["reads", "decides"] {
        let error = find(&ended, task)["error"].as_str().unwrap().to_owned();
        assert!(error.ends_with("have more than 67108864 bytes"), "{error}");
    }
    assert_eq!(find(&ended, "free")["status"], "Completed");
    let events = lab.events(&id);
    for event in ["task_failed reads", "task_failed decides", "pipeline_failed"] {
        assert_eq!(events.iter().filter(|seen| *seen == event).count(), 1, "{events:?}");
    }
}

#[test]
fn an_execution_whose_manifest_is_not_read_any_more_blocks_nothing_and_can_be_cancelled() {
    let mut lab = Lab::start(2);
    lab.upload("p", "", &[("a", "true", ""), ("b", "true", "")]);
    lab.upload("q", "", &[("a", WAITS, ""), ("b", "true", "dependencies = [\"a\"]")]);
    let running = lab.execute("q", "");
    lab.written("ledger");
    lab.post("workflows/p/pause", "").expect_status(200);
    let ids: Vec<_> = (0..2).map(|_| lab.execute("p", "")).collect();
    let pid = lab.site.server.pid().to_string();
    send_signal("KILL", &pid);
    wait_for("the server to be gone", || (!lab.site.server.is_running()).then_some(()));
    lab.site.database.execute("UPDATE cloacina_packages SET manifest = 'of another time'");
    lab.site.server = start(&lab.site.database, &lab.home, 2);
    let cancelled = lab.post(&format!("executions/{}/cancel", ids[0]), "").expect_status(202).json();
    assert_eq!(cancelled["status"], "Cancelled");
    let events = lab.events(&ids[0]);
    assert_eq!(events[2..], ["task_cancelled a", "task_cancelled b", "pipeline_cancelled"]);
    lab.post("workflows/p/resume", "").expect_status(200);
    lab.allow("go");
    for id in [&ids[1], &running] {
        let ended = lab.ended(id);
        assert_eq!(ended["status"], "Failed", "{ended:#}");
        assert!(ended["error"].as_str().unwrap().contains("manifest is not read"), "{ended:#}");
        assert_eq!(find(&ended, "b")["status"], "Failed");
    }
    assert_eq!(lab.events(&ids[1])[2..], ["task_failed a", "task_failed b", "pipeline_failed"]);
    lab.upload("good", "", &[("only", "true", "")]);
    assert_eq!(lab.run("good", "")["status"], "Completed");
}
