//! The rows: commands, each with its actions behind it.

use super::Topic;
use crate::cli::completions::SHELLS;
use crate::cli::flags::{Flag, Kind, Value};
use crate::cli::workflow::{PACK_FLAGS, RUN_FLAGS};
use crate::config::Setting;

/// What commands have in common that have neither flags nor operands.
const PLAIN: Topic =
    Topic { name: "", summary: "", text: "", flags: &[], settings: |_| false, operands: &[] };

const KEYS: Topic = Topic { settings: Setting::is_for_keys, ..PLAIN };

const TENANTS: Topic = Topic { settings: Setting::is_for_tenants, ..PLAIN };

const HOSTS: Topic = Topic { settings: Setting::is_for_hosts, ..PLAIN };

const ID: Value = Value { placeholder: "ID", kind: Kind::Free };

const NAME: Value = Value { placeholder: "NAME", kind: Kind::Free };

const PASSWORD_FILE: Flag = Flag::with_value(
    "--password-file",
    "FILE",
    Kind::File,
    "A file with the password of the role in it; - is stdin. [default: 32 random characters]",
);

const KEY: Value = Value { placeholder: "KEY", kind: Kind::Setting };

pub const TOPICS: &[Topic] = &[
    Topic {
        name: "serve",
        summary: "run the API server",
        text: include_str!("../help/serve.txt"),
        flags: &[Flag::switch(
            "--check",
            "\
Do not serve: say what a start would find in configuration, files and database, change nothing, and exit with
0, or with 1 or 2 when something is wrong.",
        )],
        settings: |_| true,
        ..PLAIN
    },
    Topic {
        name: "config",
        summary: "show and change config.toml: get KEY, set KEY VALUE, unset KEY, list",
        text: include_str!("../help/config.txt"),
        ..PLAIN
    },
    Topic { name: "config get", summary: "print the value that counts", operands: &[KEY], ..PLAIN },
    Topic {
        name: "config set",
        summary: "change config.toml",
        operands: &[KEY, Value { placeholder: "VALUE", kind: Kind::Free }],
        ..PLAIN
    },
    Topic { name: "config unset", summary: "take a value out of config.toml", operands: &[KEY], ..PLAIN },
    Topic { name: "config list", summary: "print all values that count, passwords masked", ..PLAIN },
    Topic {
        name: "keys",
        summary: "create, list, revoke, rotate, explain, apply: keys straight on the database",
        text: include_str!("../help/keys.txt"),
        ..KEYS
    },
    Topic {
        name: "keys create",
        summary: "make a key and print it",
        text: include_str!("../help/keys-create.txt"),
        flags: &[
            Flag::with_value("--name", "NAME", Kind::Free, "What to call it: 1 to 255 characters."),
            Flag::with_value(
                "--permissions",
                "P",
                Kind::OneOf(&["admin", "write", "read"]),
                "admin, write or read. [default: admin]",
            ),
            Flag::with_value(
                "--expires-in",
                "D",
                Kind::Free,
                "For how long it is valid: 90d, 12h, 30m or 45s. [default: for ever, or as long as --max-key-lifetime allows]",
            ),
            Flag::with_value(
                "--tenant",
                "NAME",
                Kind::Free,
                "Make it a key of this tenant. [default: a key of the server's own]",
            ),
        ],
        ..KEYS
    },
    Topic {
        name: "keys list",
        summary: "print all keys",
        text: include_str!("../help/keys-list.txt"),
        flags: &[
            Flag::with_value("--tenant", "NAME", Kind::Free, "Only keys of this tenant. [default: all keys]"),
            Flag::switch("--active", "Leave out keys that are revoked or expired."),
            Flag::switch("--json", "Print one JSON array instead, of objects as GET /auth/keys has them."),
        ],
        ..KEYS
    },
    Topic {
        name: "keys revoke",
        summary: "revoke a key for good",
        text: include_str!("../help/keys-revoke.txt"),
        operands: &[ID],
        ..KEYS
    },
    Topic {
        name: "keys rotate",
        summary: "replace a key by a new one and print that",
        text: include_str!("../help/keys-rotate.txt"),
        flags: &[Flag::with_value(
            "--grace",
            "D",
            Kind::Free,
            "For how long the old key stays valid beside the new one: 7d, 12h, 30m or 45s. [default: not at all]",
        )],
        operands: &[ID],
        ..KEYS
    },
    Topic {
        name: "keys explain",
        summary: "say what is the matter with a key, read from stdin",
        text: include_str!("../help/keys-explain.txt"),
        ..KEYS
    },
    Topic {
        name: "keys apply",
        summary: "make the keys those that a file declares",
        text: include_str!("../help/keys-apply.txt"),
        flags: &[Flag::switch("--dry-run", "Say what would be done, and do nothing.")],
        operands: &[Value { placeholder: "FILE", kind: Kind::File }],
        ..KEYS
    },
    Topic {
        name: "tenants",
        summary: "create, list, show, password, remove: tenants straight on the database",
        text: include_str!("../help/tenants.txt"),
        ..TENANTS
    },
    Topic {
        name: "tenants create",
        summary: "make a tenant, if wished with a database role and a schema",
        text: include_str!("../help/tenants-create.txt"),
        flags: &[
            Flag::with_value(
                "--username",
                "U",
                Kind::Free,
                "Give it a schema, and a database role of this name. [default: it has keys only]",
            ),
            PASSWORD_FILE,
        ],
        operands: &[NAME],
        ..TENANTS
    },
    Topic {
        name: "tenants list",
        summary: "print all tenants",
        text: include_str!("../help/tenants-list.txt"),
        flags: &[Flag::switch(
            "--json",
            "Print one JSON array instead, of objects as GET /tenants has them.",
        )],
        ..TENANTS
    },
    Topic {
        name: "tenants show",
        summary: "print a tenant with its limits",
        text: include_str!("../help/tenants-show.txt"),
        operands: &[NAME],
        ..TENANTS
    },
    Topic {
        name: "tenants password",
        summary: "give a tenant's role another password",
        text: include_str!("../help/tenants-password.txt"),
        flags: &[PASSWORD_FILE],
        operands: &[NAME],
        ..TENANTS
    },
    Topic {
        name: "tenants remove",
        summary: "remove a tenant with its keys, role and schema",
        text: include_str!("../help/tenants-remove.txt"),
        flags: &[Flag::switch(
            "--force",
            "Cancel its executions that have not ended, which keep it from being removed.",
        )],
        operands: &[NAME],
        ..TENANTS
    },
    Topic {
        name: "hosts",
        summary: "list, forget: the machines whose servers run tasks, straight on the database",
        text: include_str!("../help/hosts.txt"),
        ..HOSTS
    },
    Topic {
        name: "hosts list",
        summary: "print all hosts",
        text: include_str!("../help/hosts-list.txt"),
        flags: &[Flag::switch(
            "--json",
            "Print one JSON array instead, with all that is known of each host.",
        )],
        ..HOSTS
    },
    Topic {
        name: "hosts forget",
        summary: "say that a host is gone, and abandon what it ran",
        text: include_str!("../help/hosts-forget.txt"),
        operands: &[NAME],
        ..HOSTS
    },
    Topic {
        name: "workflow",
        summary: "check, pack, run, schema: packages of tasks, here, without server or database",
        text: include_str!("../help/workflow.txt"),
        ..PLAIN
    },
    Topic {
        name: "workflow check",
        summary: "say all that is wrong with a package",
        text: include_str!("../help/workflow-check.txt"),
        operands: &[Value { placeholder: "DIR|FILE", kind: Kind::File }],
        ..PLAIN
    },
    Topic {
        name: "workflow pack",
        summary: "make the archive that is uploaded",
        text: include_str!("../help/workflow-pack.txt"),
        flags: PACK_FLAGS,
        operands: &[Value { placeholder: "DIR", kind: Kind::Directory }],
        ..PLAIN
    },
    Topic {
        name: "workflow run",
        summary: "run a package's tasks here, as a server would",
        text: include_str!("../help/workflow-run.txt"),
        flags: RUN_FLAGS,
        operands: &[Value { placeholder: "DIR|FILE", kind: Kind::File }],
        ..PLAIN
    },
    Topic {
        name: "workflow schema",
        summary: "print the JSON schema of package.toml, for editors",
        text: include_str!("../help/workflow-schema.txt"),
        ..PLAIN
    },
    Topic {
        name: "health",
        summary: "ask a running server whether it is ready",
        text: include_str!("../help/health.txt"),
        flags: &[Flag::with_value(
            "--url",
            "URL",
            Kind::Free,
            "Where the server is, such as http://127.0.0.1:8080. Only http://.\n\
             [default: the configured `bind`, on this machine]",
        )],
        ..PLAIN
    },
    Topic {
        name: "completions",
        summary: "print a script that lets a shell complete commands: bash, zsh or fish",
        text: include_str!("../help/completions.txt"),
        operands: &[Value { placeholder: "SHELL", kind: Kind::OneOf(SHELLS) }],
        ..PLAIN
    },
    Topic {
        name: "help",
        summary: "print this, or the help of a COMMAND",
        operands: &[Value { placeholder: "COMMAND", kind: Kind::Command }],
        ..PLAIN
    },
];
