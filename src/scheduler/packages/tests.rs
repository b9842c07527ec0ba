//! Packages with a program that unpacks as a shell script.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::scheduler::attempts::tests::{Home, claimed, wait_for, write_program};

/// `unpack-package DESTINATION UUID`: the archive itself is all that is in the package.
const UNPACK: &str = "#!/bin/sh\nmkdir \"$2\" && cat >\"$2/archive\"\n";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn open(home: &Home, read: ReadPackage) -> Packages {
    let program = home.0.join("unpack");
    write_program(&program, UNPACK);
    let settings = AttemptSettings { read_package: read, ..home.settings(program, Uuid::nil()) };
    Packages::open(&settings, 0o700).unwrap()
}

/// In pieces of two bytes.
fn reads(bytes: &'static [u8], times: &Arc<AtomicUsize>) -> ReadPackage {
    let times = Arc::clone(times);
    Arc::new(move |_, at| {
        times.fetch_add(usize::from(at == 0), Ordering::Relaxed);
        let at = usize::try_from(at).unwrap();
        Ok(bytes[at..].iter().copied().take(2).collect())
    })
}

#[test]
fn a_package_is_unpacked_once_for_all_that_wait_for_it() {
    let (home, times) = (Home::new(), Arc::default());
    let packages = open(&home, reads(b"abcde", &times));
    let hash = sha256(b"abcde");
    let package = Claimed { package_sha256: hash.clone(), ..claimed() };
    let place = packages.hold(package.tenant, &hash).unwrap();
    assert!(!place.is_there());
    assert!(packages.wait_for(&place, package.clone()));
    assert!(!packages.wait_for(&place, package.clone()));
    let (waited, unpacked) = packages.unpack(&place);
    assert!(waited.len() == 2 && unpacked.is_ok(), "{unpacked:?}");
    assert_eq!(fs::read(place.path().join("archive")).unwrap(), b"abcde");
    // It has come since it was looked for.
    assert!(packages.wait_for(&place, package));
    let (waited, unpacked) = packages.unpack(&place);
    assert!(waited.len() == 1 && unpacked.is_ok());
    assert_eq!(times.load(Ordering::Relaxed), 1);
    let names: Vec<_> = fs::read_dir(place.path().parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(packages.hold_at(place.path()), Some(place));
    assert_eq!(packages.hold_at(Path::new("/")), None);
    assert_eq!(packages.hold_at(Path::new("/srv/package")), None);
}

#[test]
fn a_package_that_is_not_what_was_uploaded_is_refused() {
    let (home, times) = (Home::new(), Arc::default());
    let packages = open(&home, reads(b"abcdf", &times));
    let hash = sha256(b"abcde");
    let package = Claimed { package_sha256: hash.clone(), ..claimed() };
    let place = packages.hold(package.tenant, &hash).unwrap();
    packages.wait_for(&place, package);
    let (_, Err(PackageError::Failed(why))) = packages.unpack(&place) else { panic!() };
    assert!(why.starts_with("its package is damaged in the database: its SHA-256 is "), "{why}");
    assert!(!place.is_there());
    for name in ["", "..", &hash[1..], &hash.to_uppercase()] {
        assert_eq!(packages.hold(Uuid::nil(), name), None, "{name}");
    }
}

#[test]
fn one_that_is_cancelled_does_not_wait_any_more() {
    let (home, times) = (Home::new(), Arc::default());
    let packages = open(&home, reads(b"abcde", &times));
    let package = Claimed { package_sha256: sha256(b"abcde"), ..claimed() };
    let place = packages.hold(package.tenant, &package.package_sha256).unwrap();
    let id = package.attempt;
    assert!(!packages.give_up(&place, id));
    packages.wait_for(&place, package.clone());
    assert!(packages.give_up(&place, id) && !packages.give_up(&place, id));
    // It is to be unpacked still, for others that come.
    let other = Claimed { attempt: Uuid::new_v4(), ..package };
    assert!(!packages.wait_for(&place, other.clone()));
    let (waited, unpacked) = packages.unpack(&place);
    assert!(unpacked.is_ok() && waited.len() == 1 && waited[0].attempt == other.attempt);
    // Where none is left, the next one has it unpacked.
    fs::remove_dir_all(place.path()).unwrap();
    assert!(packages.wait_for(&place, other.clone()) && packages.give_up(&place, other.attempt));
    let (waited, unpacked) = packages.unpack(&place);
    assert!(unpacked.is_ok() && waited.is_empty() && !place.is_there());
    assert!(packages.wait_for(&place, other));
}

#[test]
fn what_no_attempt_uses_is_cleared() {
    let (home, times) = (Home::new(), Arc::default());
    let packages = open(&home, reads(b"", &times));
    let places = ["a", "b"].map(|digit| packages.hold(Uuid::nil(), &digit.repeat(64)).unwrap());
    let twice = packages.hold(Uuid::nil(), &"a".repeat(64)).unwrap();
    for place in &places {
        fs::create_dir_all(place.path().join("inner")).unwrap();
        packages.release(place);
    }
    assert_eq!(packages.clear_unused(), 0);
    // The second one has no use left, and the first one has another.
    assert_eq!(packages.clear_older_than(Duration::ZERO), 1);
    assert_eq!(places.each_ref().map(Place::is_there), [true, false]);
    let old = SystemTime::now() - KEPT;
    packages.release(&twice);
    File::open(twice.path()).unwrap().set_modified(old).unwrap();
    assert_eq!(packages.clear_unused(), 1);
    // With the tenant's own directory.
    assert_eq!(fs::read_dir(home.0.join("packages")).unwrap().count(), 0);
}

#[test]
fn what_an_earlier_server_left_half_done_is_cleared() {
    let (home, times) = (Home::new(), Arc::default());
    let tenant = home.0.join("packages").join(Uuid::nil().to_string());
    let whole = "a".repeat(64);
    for name in [whole.as_str(), &format!("{whole}.partial-{}", Uuid::nil()), "removed-x", "archive-x"] {
        fs::create_dir_all(tenant.join(name).join("inner")).unwrap();
    }
    open(&home, reads(b"", &times));
    let names = || fs::read_dir(&tenant).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    wait_for("one package", || names() == [whole.as_str()]);
}
