//! What may stand on a command line: each flag and operand once, for the parser, the help texts and the completions.

use std::collections::BTreeMap;

use pico_args::Arguments;

use super::{switch, topics, value, values};
use crate::command_error::CommandError;
use crate::config::{Flags, Form, Setting};

/// A flag of a command. The parser takes no other than those that the command's topic has.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// With its two dashes.
    pub name: &'static str,
    /// With its one dash.
    pub short: Option<&'static str>,
    /// `None` for a flag without a value.
    pub value: Option<Value>,
    /// It may be given more than once.
    pub repeats: bool,
    /// One line or more; the first of them says it in short.
    pub help: &'static str,
}

/// The value of a flag, or an operand.
#[derive(Debug, Clone, Copy)]
pub struct Value {
    /// What stands for it in a help text.
    pub placeholder: &'static str,
    pub kind: Kind,
}

/// What a value may be, as far as a shell can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something that only the user knows, or that is secret.
    Free,
    File,
    Directory,
    OneOf(&'static [&'static str]),
    /// The key of a setting.
    Setting,
    /// A command of ours.
    Command,
    /// An action of that command.
    Action(&'static str),
}

impl Flag {
    /// A flag without a value.
    pub const fn switch(name: &'static str, help: &'static str) -> Flag {
        Flag { name, short: None, value: None, repeats: false, help }
    }

    pub const fn with_value(
        name: &'static str,
        placeholder: &'static str,
        kind: Kind,
        help: &'static str,
    ) -> Flag {
        Flag { name, short: None, value: Some(Value { placeholder, kind }), repeats: false, help }
    }

    /// The flag of a setting.
    pub fn of_setting(setting: &Setting) -> Flag {
        let kind = match setting.values {
            [] if setting.file_for.is_some() => Kind::File,
            [] => Kind::Free,
            values => Kind::OneOf(values),
        };
        let value = Value { placeholder: setting.placeholder, kind };
        let value = (setting.form != Form::Switch).then_some(value);
        Flag { name: setting.flag, short: None, value, repeats: false, help: setting.help }
    }

    /// Its help in one line, without the default.
    pub fn summary(&self) -> &'static str {
        let line = self.help.lines().next().unwrap_or_default();
        line.split(" [").next().unwrap_or(line).trim_end_matches('.')
    }
}

/// What a command line says of the flags of one command.
#[derive(Default)]
pub struct Given {
    /// Those that have a value and those that have none, by their names.
    own: BTreeMap<&'static str, Vec<String>>,
    pub settings: Flags,
}

impl Given {
    /// Takes the command's flags out of the arguments, all but those of every command.
    ///
    /// # Errors
    /// `Usage` that names the flag.
    pub fn take(command: &str, arguments: &mut Arguments) -> Result<Given, CommandError> {
        let mut given = Given::default();
        let Some(topic) = topics::topic(command) else { return Ok(given) };
        let mut take = |flag: &Flag| match (flag.value, flag.repeats) {
            (None, _) => Ok(Vec::from_iter(switch(arguments, flag.name).then(|| "true".to_owned()))),
            (Some(_), false) => value(arguments, flag).map(Vec::from_iter),
            (Some(_), true) => values(arguments, flag),
        };
        for setting in topic.settings() {
            given.settings.extend(take(&Flag::of_setting(setting))?.pop().map(|value| (setting.key, value)));
        }
        for flag in topic.flags {
            let values = take(flag)?;
            given.own.extend((!values.is_empty()).then_some((flag.name, values)));
        }
        Ok(given)
    }

    pub fn value(&mut self, flag: &str) -> Option<String> {
        self.values(flag).pop()
    }

    /// Of a flag that repeats, in the order in which they were given.
    pub fn values(&mut self, flag: &str) -> Vec<String> {
        self.own.remove(flag).unwrap_or_default()
    }

    pub fn switch(&self, flag: &str) -> bool {
        self.own.contains_key(flag)
    }
}
