//! What a server finds at its start.

use std::collections::BTreeMap;

use super::*;
use crate::engine::attempt::{FORMAT, LOCK_NAME, NEVER, OUTCOME_NAME};

#[test]
fn what_an_earlier_server_left_is_found() {
    let home = Home::new();
    let script = r#"trap 'end "\"cancelled\""' TERM; touch "$dir/ready"; while :; do sleep 0.05; done"#;
    let boot = Uuid::from_u128(1);
    let mut earlier = home.open_in(script, boot);
    let mut start = |is_to_run: bool| {
        let claimed = home.claimed();
        let id = claimed.attempt;
        earlier.start(claimed);
        wait_for("the supervisor", || home.attempt(id).join("ready").exists());
        if !is_to_run {
            earlier.cancel(id);
            earlier.wait(Duration::from_millis(1));
            wait_for("the outcome", || {
                earlier.wait(Duration::from_millis(1));
                home.attempt(id).join(OUTCOME_NAME).exists()
            });
        }
        id
    };
    let (running, over) = (start(true), start(false));
    // Never started, killed, and half made.
    let [free, killed, half, before] = [(); 4].map(|()| Uuid::new_v4());
    let spec = fs::read(home.attempt(over).join("spec.json")).unwrap();
    for (id, lock) in [(free, ""), (killed, "999999999")] {
        fs::create_dir(home.attempt(id)).unwrap();
        fs::write(home.attempt(id).join("spec.json"), &spec).unwrap();
        fs::write(home.attempt(id).join(LOCK_NAME), lock).unwrap();
    }
    let attempts = home.0.join("attempts");
    fs::create_dir(attempts.join(names::half_made(half, boot))).unwrap();
    fs::create_dir(attempts.join(names::half_made(before, Uuid::from_u128(2)))).unwrap();
    fs::create_dir(attempts.join(names::removed(half))).unwrap();
    fs::create_dir(attempts.join("lost+found")).unwrap();
    let mut later = home.open_in("", boot);
    let mut found = BTreeMap::new();
    for one in later.find().unwrap() {
        let (id, told) = match one {
            Found::Running(id) => (id, "running"),
            Found::Over(Event::Ended(id, Outcome { format: FORMAT, end: End::Cancelled, .. })) => {
                (id, "ended")
            }
            Found::Over(Event::NeverStarted(id)) => (id, "never"),
            Found::Over(Event::Abandoned(id, why)) => {
                (id, if why == "its supervisor was killed" { "killed" } else { "before" })
            }
            Found::Over(event) => panic!("{event:?}"),
        };
        assert_eq!(found.insert(id, told), None);
    }
    let expected = [
        (running, "running"),
        (over, "ended"),
        (free, "never"),
        (killed, "killed"),
        (half, "never"),
        (before, "before"),
    ];
    assert_eq!(found, BTreeMap::from(expected));
    assert_eq!(fs::read_to_string(home.attempt(free).join(LOCK_NAME)).unwrap(), NEVER);
    assert_eq!(later.attempts.len(), 1);
    // It is the child of the earlier one, which waits for it, and followed all the same.
    later.cancel(running);
    while !earlier.attempts.is_empty() {
        earlier.wait(Duration::from_millis(10));
    }
    expect_end(&end_of(&mut later), running, &End::Cancelled);
    // After a restart of the system all of them are over.
    let mut after = home.open_in("", Uuid::from_u128(3));
    let found = after.find().unwrap();
    let is_over = |found: &Found| !matches!(found, Found::Running(_));
    assert!(found.len() >= 4 && found.iter().all(is_over), "{found:?}");
}

#[test]
fn what_cannot_be_listed_is_not_taken_for_nothing() {
    let home = Home::new();
    let mut attempts = home.open("");
    fs::remove_dir(home.0.join("attempts")).unwrap();
    fs::write(home.0.join("attempts"), "").unwrap();
    assert!(may_be_there(&home.0));
    attempts.find().unwrap_err();
    fs::remove_file(home.0.join("attempts")).unwrap();
    assert!(!may_be_there(&home.0));
}

#[test]
fn a_thread_that_outlives_its_attempts_starts_nothing() {
    let home = Home::new();
    let attempts = home.open("exit 0");
    let (starter, claimed) = (Arc::clone(&attempts.starter), home.claimed());
    let place = starter.packages.hold(claimed.tenant, &claimed.package_sha256).unwrap();
    drop(attempts);
    starter.start(&claimed, &place);
    assert_eq!(fs::read_dir(home.0.join("attempts")).unwrap().count(), 0);
}
