//! Long names and extended headers: what they say is what is checked, and no two programs may read them differently.

use tar::Header;

use super::assert_problems;
use super::made::{MANIFEST, Made};

#[test]
fn long_names_are_names() {
    let long = "directory/".repeat(12) + "file";
    let made = Made::new()
        .long(b'L', long.as_bytes())
        .file("directory/", b"x")
        .pax(&[
            ("mtime", b"1.5"),
            ("path", format!("{long}2").as_bytes()),
            ("SCHILY.xattr.user.a", b"\n\xff="),
        ])
        .file("PaxHeaders/short", b"y")
        .long(b'K', long.as_bytes())
        .symlink("a", "cut")
        .pax(&[("linkpath", long.as_bytes())])
        .hard_link("b", "cut")
        .raw(b'g', b"pax_global_header", |_| {}, b"52 comment=0123456789012345678901234567890123456789\n");
    assert_problems(&made.file("c", b"").archive(), &[]);
    // In the second field of the header, as ustar has it.
    let prefix = |header: &mut Header| {
        let mut ustar = Header::new_ustar();
        ustar.as_old_mut().name[..12].copy_from_slice(b"package.toml");
        ustar.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"top");
        ustar.set_size(MANIFEST.len() as u64);
        ustar.set_mode(0o644);
        *header = ustar;
    };
    assert_problems(&Made::empty().raw(b'0', b"", prefix, MANIFEST.as_bytes()).archive(), &[]);
}

#[test]
fn a_long_name_is_checked_in_place_of_the_short_one() {
    for (made, expected) in [
        (Made::new().long(b'L', b"../canary").file("a", b""), "../canary: has `..` in it"),
        (Made::new().long(b'L', b"/canary").file("a", b""), "/canary: is an absolute path"),
        (Made::new().pax(&[("path", b"../canary")]).file("a", b""), "../canary: has `..` in it"),
        (Made::new().pax(&[("path", b"a\nb")]).file("a", b""), "a\\nb: has the control character"),
        (Made::new().pax(&[("path", b"a\0b")]).file("a", b""), "a\\u{0}b: has the control character"),
        (Made::new().pax(&[("path", b"")]).file("a", b""), ": is empty"),
        (
            Made::new().pax(&[("hdrcharset", b"BINARY"), ("path", b"\xe4")]).file("a", b""),
            "\\xe4: is not UTF-8",
        ),
        (Made::new().long(b'K', b"/etc").symlink("a", "b"), "a: is a link to `/etc`, which is outside"),
        (Made::new().pax(&[("linkpath", b"../x")]).symlink("a", "b"), "a: is a link to `../x`, which is"),
        (Made::new().pax(&[("linkpath", b"../x")]).hard_link("a", "b"), "a: is a hard link to `../x`"),
        (Made::new().pax(&[("GNU.sparse.major", b"1")]).file("a", b""), "a: is a sparse file"),
        (Made::new().pax(&[("path", b"package.toml")]).file("a", b""), "package.toml: is there twice"),
        (Made::new().pax(&[("path", b"link")]).file("a", b"").symlink("link", "/"), "link: is a link to"),
    ] {
        assert_problems(&made.archive(), &[expected]);
    }
}

#[test]
fn what_two_programs_could_read_differently_is_refused() {
    let two = [("path", &b"a"[..]), ("path", b"b")];
    let sized = |size: &'static [u8]| Made::new().pax(&[("size", size)]).file("a", b"four");
    let global = |content| Made::new().raw(b'g', b"global", |_| {}, content);
    let old = |header: &mut Header| header.as_mut_bytes()[257..265].fill(0);
    let extended = |header: &mut Header| header.as_mut_bytes()[482] = 1;
    // What python takes for the start of the name, in a header of GNU tar; and a version that only GNU tar takes for ustar.
    let hidden = |header: &mut Header| header.as_mut_bytes()[345..347].copy_from_slice(b"..");
    let star = |header: &mut Header| {
        header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\0  ");
        header.as_mut_bytes()[345..347].copy_from_slice(b"..");
    };
    for (made, expected) in [
        (sized(b"0"), "a: has one size in its header and another one"),
        (sized(b"1000"), "a: has one size in its header and another one"),
        (sized(b"-4"), "has an extended header whose size is no number"),
        (Made::new().pax(&two).file("c", b""), "gives its name, target or size twice"),
        (Made::new().pax(&[]).pax(&[]).file("c", b""), "comes after two names, targets or extended headers"),
        (Made::new().long(b'L', b"a").long(b'L', b"b").file("c", b""), "comes after two names"),
        (Made::new().long(b'K', b"a").long(b'K', b"b").symlink("c", "d"), "comes after two names"),
        (Made::new().long(b'L', b"a").pax(&[("path", b"b")]).file("c", b""), "has two long names or targets"),
        (Made::new().raw(b'L', b"l", |_| {}, b"a\0b\0").file("c", b""), "does not end with its only NUL"),
        (Made::new().raw(b'L', b"l", |_| {}, b"a").file("c", b""), "does not end with its only NUL"),
        (Made::new().raw(b'L', b"l", |_| {}, b"").file("c", b""), "does not end with its only NUL"),
        (Made::new().raw(b'x', b"x", |_| {}, b"99 path=a\n").file("c", b""), "whose lengths are wrong"),
        (global(b"9 path=a\n").file("c", b""), "global: is a global header that names, links or sizes"),
        (global(b"11 size=10\n").file("c", b""), "global: is a global header that names, links or sizes"),
        (Made::new().raw(b'S', b"s", |_| {}, b""), "s: is a sparse file, which tar writes"),
        (
            Made::new().raw(b'S', b"s", extended, b""),
            "s: has fields that only incremental, sparse or divided",
        ),
        (Made::new().raw(b'0', b"a", hidden, b""), "a: has fields that only incremental, sparse or divided"),
        (Made::new().raw(b'0', b"a", star, b""), "a: has fields that only incremental, sparse or divided"),
        (Made::new().raw(b'x', b"x", old, b"9 path=a\n").file("c", b""), "in a header of the oldest one"),
        (Made::new().raw(b'5', b"d", |_| {}, b"content"), "d: is a link, a directory, a device or a pipe"),
        (Made::new().long(b'L', b"name"), "archive: ends with a name or an extended header that no entry"),
        (Made::new().pax(&[("path", b"b")]), "archive: ends with a name or an extended header that no entry"),
    ] {
        assert_problems(&made.archive(), &[expected]);
    }
    let large = vec![b'a'; 2 << 20];
    assert_problems(&Made::new().long(b'L', &large).archive(), &["extended headers of more than 1 MiB"]);
    let many = |count| (0..count).fold(Made::new(), |made, _| made.raw(b'g', b"global", |_| {}, b""));
    assert_problems(&many(100).archive(), &[]);
    assert_problems(&many(101).archive(), &["global: is a global header that names, links or sizes"]);
}

#[test]
fn sizes_that_are_no_sizes_are_refused() {
    let of_size = |size: &'static [u8; 12]| {
        Made::new().raw(b'0', b"a", |header| header.as_old_mut().size = *size, b"").archive()
    };
    for size in [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
        b"-0000000001\0",
        b"0x000000010\0",
        b"9          \0",
    ] {
        assert_problems(&of_size(size), &["a: has a size that is negative, too large or no number"]);
    }
    assert_problems(&of_size(b"\x80\0\0\0\0\0\0\0\0\0\0\0"), &[]);
    let meaningless = |at: usize, bytes: &'static [u8]| {
        let edit = |header: &mut Header| header.as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes);
        Made::new().raw(b'0', b"a", edit, b"").archive()
    };
    for at in [108, 116, 136, 329, 337] {
        let expected = "a: has an owner, a group, a time or a device that is no number";
        assert_problems(&meaningless(at, b"000\xdb750"), &[expected]);
        assert_problems(&meaningless(at, b"        "), &[]);
        assert_problems(&meaningless(at, b"\xff\xff\xff\xff\xff\xff\xff\xfe"), &[]);
    }
    let made = Made::new().raw(b'0', b"a", |header| header.as_old_mut().mode = *b"rw-r--r-", b"");
    assert_problems(&made.archive(), &["a: has a mode that is no number"]);
}
