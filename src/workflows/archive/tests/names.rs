//! Paths, kinds and numbers of entries, and where the manifest is.

use super::made::{MANIFEST, Made};
use super::{assert_problems, problems};

#[test]
fn a_package_may_begin_in_one_top_folder() {
    for archive in [
        Made::new(),
        Made::new().directory("data/").file("data/a b.csv", b"1").file(".env", b"").file("ü/🔑", b""),
        Made::empty().directory("./").file("./package.toml", MANIFEST.as_bytes()).file("./x/y/z", b""),
        Made::empty().directory("one-1.0/").file("one-1.0/package.toml", MANIFEST.as_bytes()),
        Made::empty().file("one/run.sh", b"").file("one/package.toml", MANIFEST.as_bytes()),
        // A folder of a package may hold another package.
        Made::new().file("other/package.toml", b"").file("third/package.toml", b"\xff"),
        Made::new().directory("a").file("b/", b"").file("package.toml/x", b""),
    ] {
        let found = problems(&archive.archive());
        assert!(found.is_empty() || found.len() == 2 && found[0].starts_with("b/"), "{found:#?}");
    }
    for (archive, expected) in [
        (Made::empty(), "package.toml: is missing; it has to be at the top of the package"),
        (Made::empty().file("package.tml", b""), "package.toml: is missing"),
        (Made::empty().file("a/b/package.toml", b""), "and there is one at `a/b/package.toml`"),
        (Made::empty().file("a/package.toml", b"").file("b", b""), "and there is one at `a/package.toml`"),
        (Made::empty().directory("package.toml"), "package.toml: is not a plain file"),
        (Made::empty().file("a", b"").symlink("package.toml", "a"), "package.toml: is not a plain file"),
        (Made::empty().file("a", b"").hard_link("package.toml", "a"), "package.toml: is not a plain file"),
        (Made::empty().file("package.toml", &vec![b'#'; (1 << 20) + 1]), "package.toml: has more than 1 MiB"),
    ] {
        assert_problems(&archive.archive(), &[expected]);
    }
}

#[test]
fn what_would_be_written_outside_is_refused() {
    for (name, expected) in [
        ("/etc/passwd", "/etc/passwd: is an absolute path"),
        ("//etc/passwd", "//etc/passwd: is an absolute path"),
        ("../canary", "../canary: has `..` in it"),
        ("a/../../canary", "a/../../canary: has `..` in it"),
        ("a/..", "a/..: has `..` in it"),
        ("..", "..: has `..` in it"),
        ("./../canary", "./../canary: has `..` in it"),
        ("", ": is empty"),
        ("a\nb", "a\\nb: has the control character '\\n' in it"),
        ("\u{1b}[2J", "\\u{1b}[2J: has the control character '\\u{1b}' in it"),
        (".", ".: is the package itself, and no directory"),
        ("a/", "a/: is a file, and its name ends with `/`"),
    ] {
        assert_problems(&Made::new().file(name, b"x").archive(), &[expected]);
    }
    let archive = Made::new().raw(b'0', b"\xff\xfe", |_| {}, b"").archive();
    assert_problems(&archive, &["\\xff\\xfe: is not UTF-8"]);
}

#[test]
fn a_path_has_one_entry() {
    for (archive, expected) in [
        (Made::new().file("a", b"").file("a", b""), "a: is there twice"),
        (Made::new().file("a", b"").file("./a", b""), "./a: is there twice"),
        (Made::new().file("d/a", b"").file("d//./a", b""), "d//./a: is there twice"),
        (Made::new().directory("a/").directory("a"), "a: is there twice"),
        (Made::new().directory("./").directory("."), ".: is there twice"),
        (Made::new().directory("a/").file("a", b""), "a: is there twice, once as a directory"),
        (Made::new().file("a", b"").directory("a/"), "a/: is there twice"),
        (Made::new().file("a", b"").file("a/b", b""), "a/b: is below `a`, which is a file"),
        (Made::new().file("a/b", b"").file("a", b""), "a: is there twice, once as a directory"),
        (Made::new().file("a/b", b"").symlink("a", "package.toml"), "a: is there twice, once as a directory"),
        (Made::new().file("a", b"").symlink("a", "package.toml"), "a: is there twice"),
        (Made::new().symlink("a", "package.toml").file("a", b"x"), "a: is there twice"),
        (Made::new().hard_link("a", "package.toml").file("a", b"x"), "a: is there twice"),
        (Made::new().file("package.toml", b"other"), "package.toml: is there twice"),
    ] {
        assert_problems(&archive.archive(), &[expected]);
    }
    // A directory may be named after what is in it.
    assert_problems(&Made::new().file("a/b", b"").directory("a/").archive(), &[]);
}

#[test]
fn only_files_directories_and_links_are_in_a_package() {
    for (kind, expected) in [
        (b'3', "a character device"),
        (b'4', "a block device"),
        (b'6', "a named pipe"),
        (b'7', "of a kind that packages do not have"),
        (b'D', "of a kind that packages do not have"),
        (b'M', "of a kind that packages do not have"),
        (b'V', "of a kind that packages do not have"),
        (b'\xff', "of a kind that packages do not have"),
    ] {
        assert_problems(&Made::new().raw(kind, b"x", |_| {}, b"").archive(), &[expected]);
    }
    for mode in [0o4755, 0o2755, 0o1644, 0o107_755] {
        let archive = Made::new().raw(b'0', b"x", |header| header.set_mode(mode), b"").archive();
        assert_problems(&archive, &["x: is setuid, setgid or sticky"]);
    }
    let of_directory = |mode| Made::new().raw(b'5', b"x", |header| header.set_mode(mode), b"").archive();
    assert_problems(&of_directory(0o4755), &["x: is setuid"]);
    // As directories get it from the one they are made in.
    assert_problems(&of_directory(0o3777), &[]);
}

#[test]
fn paths_have_bounds() {
    let deep = |depth| vec!["d"; depth].join("/");
    let long = |bytes| deep(60) + "/" + &"n".repeat(200) + "/" + &"n".repeat(200) + "/" + &"n".repeat(bytes);
    for (name, expected) in [
        (deep(64), None),
        (deep(65), Some("is 65 directories deep; 64 are allowed")),
        ("n".repeat(255), None),
        ("n".repeat(256), Some("has a part of 256 bytes; 255 are allowed")),
        ("ü".repeat(128), Some("has a part of 256 bytes; 255 are allowed")),
        (long(255), None),
        ("n/".to_owned() + &"n".repeat(250), None),
        (vec!["n".repeat(204); 5].join("/"), None),
        (vec!["n".repeat(205); 5].join("/"), Some("is a path of 1029 bytes; 1024 are allowed")),
    ] {
        let archive = Made::new().long(b'L', name.as_bytes()).file("short", b"").archive();
        assert_problems(&archive, expected.as_slice());
    }
}

#[test]
fn all_problems_are_told_up_to_a_number() {
    let made = Made::new().file("/a", b"").file("../b", b"content").symlink("c", "/etc").file("d\t", b"");
    let expected =
        ["/a: is an absolute", "../b: has `..`", "c: is a link to `/etc`", "d\\t: has the control"];
    assert_problems(&made.archive(), &expected);
    let made = (0..250).fold(Made::empty(), |made, number| made.file(&format!("/{number}"), b""));
    let found = problems(&made.archive());
    assert_eq!(found.len(), 101);
    assert_eq!(found[100], "archive: has 151 more problems of this kind");
}

#[test]
fn an_archive_has_bounds() {
    let with =
        |entries: usize| (1..entries).fold(Made::new(), |made, number| made.file(&format!("{number}"), b""));
    assert_problems(&with(10_000).archive(), &[]);
    assert_problems(&with(10_001).archive(), &["10000: comes after 10000 others; no more are allowed"]);
    let implied =
        (0..2_000).fold(Made::new(), |made, number| made.file(&format!("{number}/a/b/c/d/e/f"), b""));
    assert_problems(&implied.archive(), &["comes after 10000 others; no more are allowed"]);
    let of_size = |size| Made::new().raw(b'0', b"large", |header| header.set_size(size), b"").archive();
    let gib = 1 << 30;
    assert_problems(&of_size(gib + 1), &["large: makes the package larger than 1024 MiB"]);
    assert_problems(&of_size(10 * gib), &["large: makes the package larger than 1024 MiB"]);
    assert_problems(&of_size(u64::MAX), &["large: makes the package larger than 1024 MiB"]);
    // Also what is refused counts, and what is only said to be there.
    let made = Made::new().raw(b'0', b"/a", |header| header.set_size(gib - 4_096), b"");
    assert_problems(&made.archive(), &["/a: is an absolute path", "is cut off"]);
}
