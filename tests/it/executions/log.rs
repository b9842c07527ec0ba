//! What a task has printed.

use super::Idle;

#[test]
fn a_log_is_read_from_anywhere() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let path = format!("executions/{id}/tasks/only/log");
    let read = |query: &str| {
        let answer = idle.get(&format!("{path}{query}")).expect_status(200);
        let next = answer.header("X-Log-Next").unwrap().to_owned();
        (answer.text().to_owned(), next)
    };
    let is = |query: &str, text: &str, next: &str| {
        assert_eq!(read(query), (text.to_owned(), next.to_owned()), "{query}")
    };
    is("", "", "0");
    let first = idle.attempt(&id, 1, true);
    idle.print(&first, 0, "first try\n");
    let second = idle.attempt(&id, 2, false);
    is("", "", "0");
    idle.print(&second, 0, "one\n");
    idle.print(&second, 4, "two\nthree");
    let gap = |bytes: i32| format!("[{bytes} bytes of the log are missing here]\n");
    is("", "one\ntwo\nthree", "13");
    is("?attempt=1", "first try\n", "10");
    is("?after=4", "two\nthree", "13");
    is("?after=13", "", "13");
    is("?after=9000000000000000000", "", "9000000000000000000");
    is("?tail=1", "three", "13");
    is("?tail=2", "two\nthree", "13");
    idle.print(&second, 113, "\nend\n");
    is("", &format!("one\ntwo\nthree\n{}\nend\n", gap(100)), "118");
    is("?after=50", &format!("\n{}\nend\n", gap(63)), "118");
    is("?tail=1", "end\n", "118");
    // All of it went, as that of old executions does.
    idle.sql(&format!("DELETE FROM cloacina_log_pieces WHERE attempt = '{second}'"));
    is("", &gap(118), "118");
    is("?after=118", "", "118");

    let answer = idle.get(&path);
    assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    assert_eq!(answer.header("X-Log-Attempt"), Some("2"));
    let missing = idle.get(&format!("{path}?attempt=3")).expect_status(404).error();
    assert_eq!(missing, "attempt 3 of task 'only' not found");
    for query in [
        "attempt=0",
        "attempt=x",
        "after=-1",
        "after=9223372036854775808",
        "tail=0",
        "tail=100001",
        "tail=1&after=1",
        "wait=61",
    ] {
        let refused = idle.get(&format!("{path}?{query}")).expect_status(400).error();
        assert!(refused.starts_with(query.split('=').next().unwrap()), "{refused}");
    }
}

#[test]
fn a_large_log_comes_in_parts() {
    let idle = Idle::start();
    let id = idle.execute("nightly");
    let attempt = idle.attempt(&id, 1, true);
    idle.sql(&format!(
        "INSERT INTO cloacina_log_pieces (attempt, at, bytes)
         SELECT '{attempt}', n * 70000, convert_to(repeat(lpad(n::text, 69, '.') || E'\\n', 1000), 'UTF8')
         FROM generate_series(0, 49) AS n;
         -- A single piece that is larger than an answer, and many small ones.
         INSERT INTO cloacina_log_pieces (attempt, at, bytes)
         VALUES ('{attempt}', 3500000, convert_to(repeat('x', 3000000), 'UTF8'));
         INSERT INTO cloacina_log_pieces (attempt, at, bytes)
         SELECT '{attempt}', 6500000 + n, 'y' FROM generate_series(0, 9999) AS n;
         UPDATE cloacina_attempts SET log_bytes = 6510000 WHERE id = '{attempt}'"
    ));
    let (mut whole, mut after, mut parts) = (String::new(), "0".to_owned(), 0);
    while after != "6510000" {
        let part = idle.get(&format!("executions/{id}/tasks/only/log?after={after}")).expect_status(200);
        assert!(part.text().len() <= 1024 * 1024);
        whole += part.text();
        after = part.header("X-Log-Next").unwrap().to_owned();
        parts += 1;
        assert!(parts < 30);
    }
    let expected: String = (0..50).map(|n| format!("{:.>69}\n", n).repeat(1000)).collect();
    assert!(
        whole == expected + &"x".repeat(3_000_000) + &"y".repeat(10_000),
        "{parts} parts of {} bytes",
        whole.len()
    );
    let tail = idle.get(&format!("executions/{id}/tasks/only/log?tail=5")).expect_status(200);
    assert!(tail.text().len() <= 1024 * 1024 && tail.text().ends_with('y'));
}
