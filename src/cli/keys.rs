//! The command line of `cloacinactl keys`.

use pico_args::Arguments;

use super::flags::Given;
use super::{help, no_operands, operands, unexpected, unknown_action};
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
pub fn parse(mut arguments: Arguments, literal: Vec<String>) -> Result<(KeysAction, Flags), CommandError> {
    let flags = Given::take("keys", &mut arguments)?.settings;
    let actions = || help::actions("keys").iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let Some(name) = arguments.subcommand().ok().flatten() else {
        // A flag of an action that stands before it is told so, and what is no flag at all as well.
        no_operands("keys", arguments, literal)?;
        return Err(Usage(format!("`keys` needs an action, one of {}", actions())));
    };
    let command = format!("keys {name}");
    let Some(topic) = help::topic(&command) else {
        return Err(unknown_action("keys", &name, &format!("one of {}", actions())));
    };
    let mut given = Given::take(&command, &mut arguments)?;
    let mut operands = operands(&command, arguments, literal)?.into_iter();
    // An operand of `explain` may be a key.
    if name == "explain" && operands.len() > 0 {
        return Err(Usage(
            "`keys explain` takes no argument: it reads the key from stdin, where no list of processes shows it"
                .to_owned(),
        ));
    }
    if let Some(extra) = operands.as_slice().get(topic.operands.len()) {
        return Err(unexpected(&command, extra));
    }
    let mut operand = |placeholder: &str| {
        let operand = operands.next().filter(|operand| !operand.is_empty());
        operand.ok_or_else(|| Usage(format!("`{command}` takes one {placeholder}")))
    };
    let action = match &*name {
        "create" => KeysAction::Create {
            name: given
                .value("--name")
                .ok_or_else(|| Usage("`keys create` needs a name: --name NAME".to_owned()))?,
            permissions: given.value("--permissions"),
            expires_in: given.value("--expires-in"),
            tenant: given.value("--tenant"),
        },
        "list" => KeysAction::List {
            tenant: given.value("--tenant"),
            json: given.switch("--json"),
            active: given.switch("--active"),
        },
        "revoke" => KeysAction::Revoke { id: operand("ID")? },
        "rotate" => KeysAction::Rotate { id: operand("ID")?, grace: given.value("--grace") },
        "apply" => KeysAction::Apply { file: operand("FILE")?, dry_run: given.switch("--dry-run") },
        _ => KeysAction::Explain,
    };
    Ok((action, flags))
}
