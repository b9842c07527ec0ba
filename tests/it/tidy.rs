//! The rules of this project's tree: what lies where, how a file begins and how long it is, which words name things,
//! which module imports which, and that no migration changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::support::rust_source::{ROOT, Source, files, names, parts, sources, words};

const TOP_LEVEL: &str = "Cargo.lock Cargo.toml DESIGN.md LICENSE README.md migrations scripts src tests";

/// Lines of code and comments of a file of src/, without its test module.
const LONGEST_LINES: usize = 300;

/// Files that may be longer, how long, and why. A change that shortens one lowers its figure.
const LONG: &[(&str, usize, &str)] = &[];

/// Names that told a reader nothing, or something wrong: as a part of any identifier or file name.
const WORDS: &str =
    "gate shop desk mailbox vitals fate reply caller admit ticket keep_house dialer complain moment";
/// As types and file names; in lower case they are ordinary English.
const TYPES: &str = "Asked News Uses";
const FILE_NAMES: &str = "utils util helpers helper manager common";
const COMMENTS: &str = "whoever nobody somebody";

/// Of src/, what http/ may import: what knows neither keys nor settings nor a database.
const BELOW_HTTP: &str = "background channel command_error logging metrics networks rate_limit";

const MIGRATIONS: &[(&str, &str)] = &[
    ("bf8b2ec44c289f57419e73e1b844e29cc53602ada518cefdf784b08355c0d66d", "migrations/V1__api_keys.sql"),
    ("f170e98d3adaf56b3115f691f3327b41de8156f81707dca8e510c36eab0f463a", "migrations/V2__key_life.sql"),
    ("d84fe1a27a9d220471ff74547d70cc70779d867158d7cb47523c1de6b89a3214", "migrations/V3__auth_caches.sql"),
    ("beb845b6280a428dafaa7a60fa40ad4a09214ae26d626d2536cc9f0fba7076a8", "migrations/V4__rotation.sql"),
    ("5433f20c5c760a5b53a570a057ef28605ef111ca835c5a40562df0d2be68b68a", "migrations/V5__declared_keys.sql"),
    ("f18454d7f5fe503d8872da6857ac20980502d90156a9ff2e62d564a5421e090e", "migrations/V6__old_rows.sql"),
    (
        "70e724d5a060b2d10e6f38fe80fbb8de3f2a8ec83b781c57d156997fa284b00a",
        "migrations/V7__tenants_of_later_servers.sql",
    ),
    ("1ad757ef72be955547b0afd4bfd537eed2562306987473e1a800eb7799071236", "migrations/V8__listing_order.sql"),
    ("280ba02cb5830ef488fff831eb4859ca401b0204f77fa162e1b7985576e55b5e", "migrations/V9__tenants.sql"),
    ("c3ffe5b5c1e3eb9410d4382b299b1a03e0b9d68be7aad83d70607db88363f67f", "migrations/V10__workflows.sql"),
    ("cc2a76f2773ff375209619e85c118ac12a2f16fed887c82a5948859e712cb8d2", "migrations/V11__executions.sql"),
];

/// What breaks a rule, each with where it does.
#[track_caller]
fn assert_none(found: &BTreeMap<String, Vec<String>>) {
    let told = |(what, places): (&String, &Vec<String>)| format!("{what}\n    {}", places.join("\n    "));
    let told: Vec<_> = found.iter().map(told).collect();
    assert!(told.is_empty(), "this breaks the rule:\n{}", told.join("\n"));
}

fn is_one_of(list: &str, word: &str) -> bool {
    list.split(' ').any(|one| one == word)
}

#[test]
fn the_top_level_holds_what_a_reader_looks_for() {
    let mut others = names(Path::new(ROOT));
    others.retain(|name| !name.starts_with('.') && name != "target" && !is_one_of(TOP_LEVEL, name));
    assert!(others.is_empty(), "{others:?} should be in one of {TOP_LEVEL}");
}

#[test]
fn each_file_says_first_what_it_is_for() {
    for Source { path, text, .. } in sources() {
        let lines = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(
            (1..=4).contains(&lines),
            "{path} begins with {lines} lines of `//!`; it must be one to four"
        );
    }
}

#[test]
fn a_long_file_has_a_reason() {
    let mut long: BTreeMap<_, _> = LONG.iter().map(|(path, most, _)| (*path, *most)).collect();
    let mut wrong = Vec::new();
    for Source { path, text, .. } in &sources() {
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
        let known = long.remove(path.as_str());
        let most = known.unwrap_or(LONGEST_LINES);
        if lines > most {
            wrong.push(format!("{path} has {lines} lines of code and comments; {most} are allowed"));
        } else if known.is_some() && (lines <= LONGEST_LINES || lines + 20 < most) {
            wrong
                .push(format!("{path} has {lines} lines now; its figure {most} has to be lowered, or to go"));
        }
    }
    wrong.extend(long.keys().map(|path| format!("{path} may be long, and is not there")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn things_have_the_names_of_the_field() {
    let has_word = |name: &str| {
        let parts = parts(name);
        WORDS.split(' ').any(|word| parts.contains(&format!("_{word}_")))
    };
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for Source { path, all_code, .. } in sources() {
        for (line, name) in words(&all_code) {
            if is_one_of(TYPES, name) || has_word(name) {
                found.entry(format!("{path} {name}")).or_default().push(format!("{path}:{line}"));
            }
        }
    }
    for path in ["src", "tests", "scripts"].into_iter().flat_map(files) {
        let is_wrong = |name: &str| {
            let is_old = has_word(name) || is_one_of(&TYPES.to_lowercase(), name);
            is_one_of(FILE_NAMES, name) || is_old && path.starts_with("src/")
        };
        if path.split(['/', '.']).any(is_wrong) {
            found.insert(path.clone(), vec!["its name".to_owned()]);
        }
    }
    assert_none(&found);
}

#[test]
fn comments_speak_of_clients_and_threads() {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for Source { path, comments, .. } in sources() {
        for (line, word) in words(&comments) {
            if is_one_of(COMMENTS, &word.to_lowercase()) {
                found.entry(path.clone()).or_default().push(format!("{path}:{line} {word}"));
            }
        }
    }
    assert_none(&found);
}

/// The modules just below the crate that a file names in paths, with the lines.
fn imports(source: &Source) -> Vec<(String, usize)> {
    let below = source.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let up = "super::".repeat(below.split('/').count());
    let mut found = Vec::new();
    for root in ["crate::", up.as_str()] {
        for (at, _) in source.code.match_indices(root) {
            if source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = source.code[..at].matches('\n').count() + 1;
            let name = words(&source.code[at + root.len()..]).next().map_or("", |(_, name)| name);
            assert_ne!(name, "", "{}:{line}: a path each, please, for `use {root}`", source.path);
            found.push((name.to_owned(), line));
        }
    }
    found.retain(|(name, _)| name != "super");
    found
}

#[test]
fn imports_run_one_way() {
    let sources = sources();
    let module = |path: &str| path.split('/').nth(1).unwrap().trim_end_matches(".rs").to_owned();
    let modules: BTreeSet<_> = sources.iter().map(|source| module(&source.path)).collect();
    let mut edges = BTreeMap::<(String, String), Vec<String>>::new();
    for source in &sources {
        for (name, line) in imports(source) {
            // What is no module is an item of main.rs.
            let name = if modules.contains(&name) { name } else { "main".to_owned() };
            edges.entry((module(&source.path), name)).or_default().push(format!("{}:{line}", source.path));
        }
    }
    edges.extend(modules.iter().map(|name| (("main".to_owned(), name.clone()), Vec::new())));
    edges.retain(|(from, to), _| from != to);
    // Whether one leads to another, over those looked at so far.
    let mut reached: BTreeSet<_> = edges.keys().cloned().collect();
    for over in &modules {
        let (to_it, from_it): (Vec<_>, Vec<_>) = (
            reached.iter().filter(|edge| edge.1 == *over).map(|edge| edge.0.clone()).collect(),
            reached.iter().filter(|edge| edge.0 == *over).map(|edge| edge.1.clone()).collect(),
        );
        reached.extend(to_it.iter().flat_map(|from| from_it.iter().map(|to| (from.clone(), to.clone()))));
    }
    let mut found = BTreeMap::new();
    for ((from, to), places) in edges {
        if from == "http" && !is_one_of(BELOW_HTTP, &to) {
            found.insert(format!("http imports {to}"), places);
        } else if reached.contains(&(to.clone(), from.clone())) {
            found.insert(format!("{from} imports {to} in a circle"), places);
        }
    }
    assert_none(&found);
}

#[test]
fn migrations_are_as_they_were() {
    let hash = |path: &String| {
        let bytes = fs::read(Path::new(ROOT).join(path)).unwrap();
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let now: BTreeMap<_, _> = files("migrations").into_iter().map(|path| (hash(&path), path)).collect();
    for (hash, path) in MIGRATIONS {
        assert_eq!(now.get(*hash).map(String::as_str), Some(*path), "a database may have run it as it was");
    }
    assert_eq!(now.len(), MIGRATIONS.len(), "a new migration has a line here: {now:#?}");
}

#[test]
fn nothing_speaks_of_the_place_it_was_written_at() {
    let here = file!();
    let tree =
        ["src", "tests", "scripts", "migrations", "README.md", "DESIGN.md", "Cargo.toml", ".ci", ".cargo"];
    for path in tree.into_iter().flat_map(files).filter(|path| path != here) {
        let bytes = fs::read(Path::new(ROOT).join(&path)).unwrap();
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        for (at, line) in text.lines().enumerate() {
            let numbered = |word: &str| {
                let mut after = line.match_indices(word).map(|(at, _)| line[at + word.len()..].trim_start());
                after.any(|after| after.trim_start_matches('#').starts_with(|c: char| c.is_ascii_digit()))
            };
            let is_wrong = ["/work/", "/tmp/w/", "helper"].iter().any(|word| line.contains(word))
                || ["issue ", "issue#", "goal ", "session "].into_iter().any(numbered);
            assert!(!is_wrong, "{path}:{}: {line}", at + 1);
        }
    }
}
