//! The command line of `cloacinactl hosts`.

use pico_args::Arguments;

use super::action::GivenAction;
use crate::command_error::CommandError;
use crate::config::Flags;

/// What is to be done with hosts. Values are as they were given.
#[derive(Debug, PartialEq, Eq)]
pub enum HostsAction {
    List { json: bool },
    Forget { name: String },
}

/// Reads what follows `hosts`: an action, and flags of settings.
pub fn parse(arguments: Arguments, literal: Vec<String>) -> Result<(HostsAction, Flags), CommandError> {
    let (mut given, settings) = GivenAction::take("hosts", arguments, literal, |_| None)?;
    let action = match &*given.name {
        "list" => HostsAction::List { json: given.flags.switch("--json") },
        _ => HostsAction::Forget { name: given.operand("NAME")? },
    };
    Ok((action, settings))
}
