//! What starts executions: schedules and triggers.

use super::{Field, Kind, Literal, Presence, Table};

pub const SCHEDULE: Table = Table {
    header: "[[schedules]]",
    fields: &[
        Field {
            name: "name",
            kind: Kind::Name,
            presence: Presence::Required,
            help: "What it is called, once in the tenant, triggers included.",
        },
        Field { name: "cron", kind: Kind::Cron, presence: Presence::Required, help: "When it fires." },
        Field {
            name: "timezone",
            kind: Kind::Timezone,
            presence: Presence::Default(Literal::Text("UTC")),
            help: "Whose clock the line is read on.",
        },
        Field {
            name: "catch_up",
            kind: Kind::OneOf(&["skip", "latest", "all"]),
            presence: Presence::Default(Literal::Text("latest")),
            help: "Which ticks that are over 60 s late still start an execution: none, the latest one, or all, up to \
                   1,000.",
        },
        Field {
            name: "overlap",
            kind: Kind::OneOf(&["skip", "wait", "allow"]),
            presence: Presence::Default(Literal::Text("skip")),
            help: "What becomes of a tick while the last execution runs: it is skipped, it waits (one does, further \
                   ones are skipped), or it starts.",
        },
        Field {
            name: "context",
            kind: Kind::Context,
            presence: Presence::Optional("empty"),
            help: "What its executions read.",
        },
    ],
    foreign: &[
        ("id", "name"),
        ("schedule", "cron"),
        ("expression", "cron"),
        ("cronexpression", "cron"),
        ("oncalendar", "cron"),
        ("tz", "timezone"),
        ("zone", "timezone"),
        ("catchup", "catch_up"),
        ("backfill", "catch_up"),
        ("persistent", "catch_up"),
        ("concurrencypolicy", "overlap"),
        ("params", "context"),
        ("input", "context"),
        ("inputs", "context"),
        ("with", "context"),
    ],
    absent: &[
        (
            "enabled",
            "a schedule is in force once it is uploaded; `disable` and `enable` switch it on the server",
        ),
        ("task", "a schedule starts the workflow as a whole"),
        ("command", "a schedule starts the workflow as a whole; what runs stands in [[tasks]]"),
    ],
};

pub const TRIGGER: Table = Table {
    header: "[[triggers]]",
    fields: &[
        Field {
            name: "name",
            kind: Kind::Name,
            presence: Presence::Required,
            help: "What it is called, once in the tenant, schedules included.",
        },
        Field {
            name: "command",
            kind: Kind::Command,
            presence: Presence::Required,
            help: "What is asked. Exit 0: an execution starts, with the JSON object on its standard output as context, \
                   if there is one; exit 1: not now; else an error.",
        },
        Field {
            name: "poll_interval",
            kind: Kind::Duration { least: "1s", most: "7d" },
            presence: Presence::Required,
            help: "How long it is from one time it is asked to the next.",
        },
    ],
    foreign: &[
        ("id", "name"),
        ("cmd", "command"),
        ("run", "command"),
        ("exec", "command"),
        ("script", "command"),
        ("interval", "poll_interval"),
        ("every", "poll_interval"),
        ("pokeinterval", "poll_interval"),
        ("pollintervalms", "poll_interval"),
    ],
    absent: &[
        (
            "enabled",
            "a trigger is in force once it is uploaded; `disable` and `enable` switch it on the server",
        ),
        ("cron", "what the clock starts is written as [[schedules]]"),
    ],
};
