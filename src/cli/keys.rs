//! The command line of `cloacinactl keys`.

use pico_args::Arguments;

use super::action::GivenAction;
use crate::command_error::CommandError::{self, Usage};
use crate::config::Flags;

/// What is to be done with keys. Values are as they were given.
#[derive(Debug, PartialEq, Eq)]
pub enum KeysAction {
    Create { name: String, permissions: Option<String>, expires_in: Option<String>, tenant: Option<String> },
    List { tenant: Option<String>, json: bool, active: bool },
    Revoke { id: String },
    Rotate { id: String, grace: Option<String> },
    Explain,
    Apply { file: String, dry_run: bool },
}

/// Reads what follows `keys`: an action, and flags of settings.
pub fn parse(arguments: Arguments, literal: Vec<String>) -> Result<(KeysAction, Flags), CommandError> {
    let (mut given, settings) = GivenAction::take("keys", arguments, literal, |action| {
        (action == "explain").then_some(
            "`keys explain` takes no argument: it reads the key from stdin, where no list of processes shows it",
        )
    })?;
    let action = match &*given.name {
        "create" => KeysAction::Create {
            name: given
                .flags
                .value("--name")
                .ok_or_else(|| Usage("`keys create` needs a name: --name NAME".to_owned()))?,
            permissions: given.flags.value("--permissions"),
            expires_in: given.flags.value("--expires-in"),
            tenant: given.flags.value("--tenant"),
        },
        "list" => KeysAction::List {
            tenant: given.flags.value("--tenant"),
            json: given.flags.switch("--json"),
            active: given.flags.switch("--active"),
        },
        "revoke" => KeysAction::Revoke { id: given.operand("ID")? },
        "rotate" => KeysAction::Rotate { id: given.operand("ID")?, grace: given.flags.value("--grace") },
        "apply" => {
            KeysAction::Apply { file: given.operand("FILE")?, dry_run: given.flags.switch("--dry-run") }
        }
        _ => KeysAction::Explain,
    };
    Ok((action, settings))
}
