//! Links that lead outside, and what hides behind one.

use super::assert_problems;
use super::made::{MANIFEST, Made};

#[test]
fn links_may_stay_inside() {
    let made = Made::new()
        .directory("a/b/")
        .file("a/b/file", b"x")
        .symlink("a/b/up", "../..")
        .symlink("a/here", ".")
        .symlink("to-file", "a/here/here/b/up/a/b/file")
        .symlink("to-link", "./to-file")
        .symlink("later", "a/last")
        .symlink("nowhere", "a/missing")
        .hard_link("same", "a/b/file")
        .hard_link("again", "./same")
        .file("a/last", b"");
    assert_problems(&made.archive(), &[]);
    let made = Made::empty()
        .file("top/package.toml", MANIFEST.as_bytes())
        .symlink("top/a/link", "../package.toml")
        .hard_link("top/b/c/link", "top/package.toml");
    assert_problems(&made.archive(), &[]);
}

#[test]
fn links_that_lead_outside_are_refused() {
    for (archive, expected) in [
        (Made::new().symlink("a", "/etc/passwd"), "a: is a link to `/etc/passwd`, which is outside"),
        (Made::new().symlink("a", "/"), "a: is a link to `/`, which is outside"),
        (Made::new().symlink("a", ".."), "a: is a link to `..`, which is outside"),
        (Made::new().symlink("a", "../canary"), "a: is a link to `../canary`, which is outside"),
        (Made::new().symlink("a/b", "../../canary"), "a/b: is a link to `../../canary`, which is outside"),
        (
            Made::new().symlink("a", "missing/../../canary"),
            "a: is a link to `missing/../../canary`, which is",
        ),
        (Made::new().symlink("a", "package.toml/../../x"), "a: is a link to `package.toml/../../x`, which"),
        (Made::new().symlink("a", ""), "a: is a link whose target is empty"),
        (Made::new().symlink("a", "\u{7}"), "a: is a link whose target has the control character"),
        (
            Made::new().hard_link("a", "/etc/passwd"),
            "a: is a hard link to `/etc/passwd`, which is an absolute",
        ),
        (Made::new().hard_link("a", "../canary"), "a: is a hard link to `../canary`, which has `..` in it"),
        (
            Made::new().hard_link("a", "b").file("b", b""),
            "a: is a hard link to `b`, which is no file before it",
        ),
        (
            Made::new().directory("b").hard_link("a", "b"),
            "a: is a hard link to `b`, which is no file before it",
        ),
        (Made::new().hard_link("a", "a"), "a: is a hard link to `a`, which is no file before it"),
        (Made::new().hard_link("a", ""), "a: is a hard link to ``, which is empty"),
        (
            Made::new().symlink("b", "c").hard_link("a", "b"),
            "a: is a hard link to `b`, which is no file before it",
        ),
        (
            Made::new().raw(b'2', b"a", |_| {}, b"content"),
            "a: is a link, a directory, a device or a pipe, and has",
        ),
        (
            Made::empty().file("top/package.toml", b"").symlink("top/a", "../top/package.toml"),
            "top/a: is a link to `../top/package.toml`, which is outside of the package",
        ),
    ] {
        assert_problems(&archive.archive(), &[expected]);
    }
}

#[test]
fn chains_of_links_are_followed() {
    // Each of them alone stays inside.
    let made =
        Made::new().symlink("d/a", "b/..").symlink("d/b", "../e").symlink("e", ".").symlink("d/c", "a/x");
    assert_problems(
        &made.archive(),
        &["d/a: is a link to `b/..`, which is outside", "d/c: is a link to `a/x`"],
    );
    let made = Made::new().symlink("a", "a");
    assert_problems(&made.archive(), &["a: is a link to `a`, which leads through too many links, or round"]);
    let made = Made::new().symlink("a", "b/x").symlink("b", "a/y");
    assert_problems(
        &made.archive(),
        &["a: is a link to `b/x`, which leads", "b: is a link to `a/y`, which leads"],
    );
    let chain = |links: usize| {
        let link = |made: Made, number: usize| made.symlink(&format!("{number}"), &format!("{}", number + 1));
        (1..links).fold(Made::new(), link).symlink(&links.to_string(), "package.toml")
    };
    assert_problems(&chain(40).archive(), &[]);
    assert_problems(&chain(41).archive(), &["1: is a link to `2`, which leads through too many links"]);
}

#[test]
fn nothing_is_written_through_a_link() {
    for archive in [
        Made::new().symlink("a", "..").file("a/canary", b"dead"),
        Made::new().symlink("a", "/tmp").file("a/canary", b"dead"),
        Made::new().symlink("a", "/tmp").symlink("a", "b").file("a/canary", b"dead"),
    ] {
        let found = super::problems(&archive.archive());
        assert!(!found.is_empty(), "{found:?}");
    }
    let made = Made::new().directory("d").symlink("a", "d").file("a/x", b"");
    assert_problems(&made.archive(), &["a/x: is below `a`, which is a link"]);
    let made = Made::new().directory("d").file("a/x", b"").symlink("a", "d");
    assert_problems(&made.archive(), &["a: is there twice, once as a directory"]);
    let made = Made::new().directory("d").symlink("a", "d").directory("a/").hard_link("a/x", "package.toml");
    assert_problems(&made.archive(), &["a/: is there twice", "a/x: is below `a`, which is a link"]);
}

#[test]
fn following_links_has_a_bound() {
    // Each of the 3,000 leads through all forty before it is clear that it stays inside.
    let parts = vec!["l"; 39].join("/");
    let made =
        Made::new().symlink("l", ".").long(b'K', (parts + "/package.toml").as_bytes()).symlink("a", "");
    assert_problems(&made.archive(), &[]);
    let target = format!("l/{}", "x/../".repeat(200));
    let link =
        |made: Made, number: usize| made.long(b'K', target.as_bytes()).symlink(&format!("n{number}"), "");
    let made = (0..3_000).fold(Made::new().symlink("l", "."), link);
    let found = super::problems(&made.archive());
    assert!(found[0].contains("leads through too many links"), "{found:#?}");
}
