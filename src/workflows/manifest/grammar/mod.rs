//! What may stand in a manifest: every table and field with type, bounds, default and what it is for. The parser, its error
//! texts, the reference and the JSON schema all read it here.

mod start;
mod task;

use start::{SCHEDULE, TRIGGER};
pub use task::RETRIES;
use task::TASK;

/// What a table may hold.
pub struct Table {
    /// As it is written: a header, or the field whose value it is.
    pub header: &'static str,
    pub fields: &'static [Field],
    /// What fields are called elsewhere, in lower case without `-` and `_`, and here.
    pub foreign: &'static [(&'static str, &'static str)],
    /// What is no field here at all, likewise, and what to do instead.
    pub absent: &'static [(&'static str, &'static str)],
}

pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub presence: Presence,
    pub help: &'static str,
}

pub enum Presence {
    Required,
    /// What is so without it.
    Optional(&'static str),
    /// What a value of the kind would be written as.
    Default(Literal),
}

#[derive(Clone, Copy)]
pub enum Literal {
    Text(&'static str),
    Boolean(bool),
}

pub enum Kind {
    /// Of a workflow, a task, a schedule or a trigger.
    Name,
    Version,
    /// Up to so many characters.
    Text(usize),
    Boolean,
    Integer {
        least: i64,
        most: i64,
    },
    /// Both as they would be written.
    Duration {
        least: &'static str,
        most: &'static str,
    },
    /// A number of bytes, likewise.
    Bytes {
        least: &'static str,
        most: &'static str,
    },
    OneOf(&'static [&'static str]),
    Cron,
    Timezone,
    Command,
    /// Ids of tasks.
    Tasks,
    /// Names of secrets.
    Secrets,
    Environment,
    Context,
    RunIf,
    Table(&'static Table),
    /// An array of tables, of at least and at most so many.
    Tables {
        table: &'static Table,
        least: usize,
        most: usize,
    },
}

/// Of a string in an array or in `env`: what one argument or variable of a process can have, and the same for secrets.
pub const MOST_STRING_BYTES: usize = 65_536;
/// How deep conditions are nested, the outermost one counted.
pub const MOST_CONDITION_DEPTH: usize = 16;

pub const MANIFEST: Table = Table {
    header: "the manifest",
    fields: &[
        Field {
            name: "package",
            kind: Kind::Table(&PACKAGE),
            presence: Presence::Required,
            help: "What the workflow is called, and what all its tasks share.",
        },
        Field {
            name: "tasks",
            kind: Kind::Tables { table: &TASK, least: 1, most: 5_000 },
            presence: Presence::Required,
            help: "What there is to run.",
        },
        Field {
            name: "schedules",
            kind: Kind::Tables { table: &SCHEDULE, least: 0, most: 100 },
            presence: Presence::Optional("none"),
            help: "What starts executions by the clock.",
        },
        Field {
            name: "triggers",
            kind: Kind::Tables { table: &TRIGGER, least: 0, most: 100 },
            presence: Presence::Optional("none"),
            help: "What starts executions by asking a command.",
        },
    ],
    foreign: &[
        ("workflow", "package"),
        ("project", "package"),
        ("dag", "package"),
        ("task", "tasks"),
        ("jobs", "tasks"),
        ("job", "tasks"),
        ("steps", "tasks"),
        ("step", "tasks"),
        ("services", "tasks"),
        ("schedule", "schedules"),
        ("cron", "schedules"),
        ("timer", "schedules"),
        ("trigger", "triggers"),
        ("sensors", "triggers"),
    ],
    absent: &[("on", "what starts it is written as [[schedules]] and [[triggers]]")],
};

pub const PACKAGE: Table = Table {
    header: "[package]",
    fields: &[
        Field {
            name: "name",
            kind: Kind::Name,
            presence: Presence::Required,
            help: "What the workflow is called.",
        },
        Field {
            name: "version",
            kind: Kind::Version,
            presence: Presence::Required,
            help: "The highest release is what runs, unless a version is asked for.",
        },
        Field {
            name: "description",
            kind: Kind::Text(1_000),
            presence: Presence::Optional("none"),
            help: "What the workflow is for.",
        },
        Field {
            name: "max_running",
            kind: Kind::Integer { least: 1, most: 10_000 },
            presence: Presence::Optional("no limit"),
            help: "How many executions of it run at once; the rest wait.",
        },
        Field {
            name: "env",
            kind: Kind::Environment,
            presence: Presence::Optional("none"),
            help: "Environment variables of every task.",
        },
    ],
    foreign: &[
        ("id", "name"),
        ("title", "name"),
        ("summary", "description"),
        ("environment", "env"),
        ("variables", "env"),
        ("concurrency", "max_running"),
        ("maxactiveruns", "max_running"),
        ("maxconcurrent", "max_running"),
    ],
    absent: &[("authors", "a package has no authors; `description` may name them")],
};

/// Every table that has a header.
pub const HEADED: [&Table; 4] = [&PACKAGE, &TASK, &SCHEDULE, &TRIGGER];

impl Table {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl Kind {
    /// What a value of it is, for "expected …", the reference and the schema.
    pub fn expected(&self) -> String {
        match self {
            Kind::Name => "a name of 1 to 63 ASCII letters, digits, - and _, with a letter first".to_owned(),
            Kind::Version => "a SemVer version, such as \"1.2.0\", without +build".to_owned(),
            Kind::Text(most) => format!("a string of at most {most} characters"),
            Kind::Boolean => "true or false".to_owned(),
            Kind::Integer { least, most } => format!("an integer from {least} to {most}"),
            Kind::Duration { least, most } => {
                format!(
                    "a duration from {least} to {most}, such as \"500ms\", \"30s\", \"10m\", \"2h\" or \"1d\""
                )
            }
            Kind::Bytes { least, most } => {
                format!("a number of bytes from {least} to {most}, such as \"512M\" or \"2G\" (K is 1024)")
            }
            Kind::OneOf(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                words.join(" | ")
            }
            Kind::Cron => {
                "a cron line of five fields, or six with seconds first, such as \"0 3 * * *\"".to_owned()
            }
            Kind::Timezone => "UTC or a name of the IANA database, such as \"Europe/Zurich\"".to_owned(),
            Kind::Command => {
                "an array of strings, the program and its arguments, such as [\"./load.sh\", \"--all\"]"
                    .to_owned()
            }
            Kind::Tasks => "an array of ids of tasks, such as [\"extract\"]".to_owned(),
            Kind::Secrets => "an array of names of secrets, such as [\"SHOP_TOKEN\"]".to_owned(),
            Kind::Environment => "a table of strings, such as { LANG = \"C.UTF-8\" }".to_owned(),
            Kind::Context => "a table, such as { full = false }".to_owned(),
            Kind::RunIf => "a condition, such as { succeeded = \"extract\" }".to_owned(),
            Kind::Table(table) => format!("a table, written as {}", table.how_to_write()),
            Kind::Tables { table, .. } => {
                format!("an array of tables, each written as {}", table.how_to_write())
            }
        }
    }
}

impl Table {
    /// The header, or the field with what it must have.
    fn how_to_write(&self) -> String {
        match self.header.starts_with('[') {
            true => self.header.to_owned(),
            false => "{ attempts = 3 }".to_owned(),
        }
    }
}
