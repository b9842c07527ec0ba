//! Passwords of tenants' roles: PostgreSQL lets a role in by what the program makes of its password.

#[path = "../../../src/tenants/password.rs"]
mod made;

use std::process::Command;

use made::Password;
use postgres::{Config, NoTls};

use crate::support::secured::Secured;

#[test]
fn a_role_logs_in_with_the_password_of_its_verifier() {
    let secured = Secured::shared();
    let database = secured.database();
    let role = format!("{}_role", database.name());
    database.execute(&format!("CREATE ROLE {role} LOGIN IN ROLE with_password"));
    let generated = Password::generate().unwrap();
    let longest = "\u{1f511}".repeat(128);
    let mut client = database.client();
    for text in [
        generated.reveal(),
        "x",
        " ",
        "it's \"quoted\" \\ $1 :pw %s",
        "SCRAM-SHA-256$4096:x",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        "p\u{e4}ssw\u{f6}rd",
        "\u{5bc6}\u{7801}\u{c554}\u{d638}\u{20ac}",
        "\u{5e1}\u{5d9}\u{5e1}\u{5de}\u{5d4}",
        // What SASLprep refuses: unassigned in its time, private, in two directions.
        &longest,
        "a\u{e000}b\u{fffd}",
        "\u{5e1}a\u{5e1}1",
        "1\u{627}",
    ] {
        let password = Password::from_text(text).unwrap();
        client.batch_execute(&format!("ALTER ROLE {role} PASSWORD '{}'", password.verifier())).unwrap();
        let by_driver = |password: &str| {
            let mut config = Config::new();
            config.host("127.0.0.1").port(secured.cluster.port()).dbname(database.name());
            config.user(&role).password(password).connect(NoTls).map(drop)
        };
        let by_psql = |password: &str| {
            let output = Command::new(secured.cluster.program("psql"))
                .args(["-X", "-w", "-h", "127.0.0.1", "-p", &secured.cluster.port().to_string()])
                .args(["-U", &role, "-d", database.name(), "-c", "SELECT 1"])
                .env("PGPASSWORD", password)
                .output()
                .unwrap();
            output.status.success()
        };
        by_driver(text).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
        assert!(by_psql(text), "psql with {text:?}");
        let wrong = format!("{text}x");
        assert!(by_driver(&wrong).is_err() && !by_psql(&wrong), "{text:?} is not all that counts");
    }
    drop(client);
    database.execute(&format!("DROP ROLE {role}"));
}

#[test]
fn a_password_has_characters_and_does_not_show_itself() {
    for wrong in ["", "a\nb", "a\0", "\u{7f}", "\u{9b}", &"x".repeat(129), &"\u{e9}".repeat(129)] {
        let error = Password::from_text(wrong).unwrap_err();
        assert_eq!(error, "must have 1 to 128 characters, none of them a control character", "{wrong:?}");
    }
    for wrong in [
        "\u{ad}",
        "x\u{200b}x",
        "a\u{a0}",
        "\u{1680}",
        "a\u{308}",
        "a\u{340}",
        "\u{3f9}",
        "\u{ff21}",
        "\u{fb1d}",
    ] {
        let error = Password::from_text(wrong).unwrap_err();
        assert!(error.starts_with("has characters that programs read differently"), "{wrong:?}: {error}");
    }
    assert_eq!(format!("{:?}", Password::from_text("secret").unwrap()), "Password(…)");
    let password = Password::from_text("secret").unwrap();
    assert_ne!(password.verifier(), password.verifier());
    assert!(password.verifier().starts_with("SCRAM-SHA-256$4096:") && !password.verifier().contains('\''));
}

/// Each of the 62 characters is as likely as any other: of 64,000, none is 200 off its share of 1,032, which chance
/// does once in some 10^8 runs.
#[test]
fn generated_passwords_are_letters_and_digits_alike() {
    let mut counts = [0_i32; 128];
    for _ in 0..2_000 {
        let password = Password::generate().unwrap();
        assert_eq!(password.reveal().len(), 32);
        password.reveal().bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    }
    for (byte, count) in counts.into_iter().enumerate() {
        let expected = if (byte as u8).is_ascii_alphanumeric() { 1_032 } else { 0 };
        assert!((count - expected).abs() <= 200 * expected.signum(), "{byte}: {count}");
    }
}
