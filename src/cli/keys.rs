//! The command line of `cloacinactl keys`.

use pico_args::Arguments;

use super::flags::Given;
use super::{help, no_operands, operands, unexpected, unknown_action};
use crate::config::Flags;
use crate::failure::Failure;

/// What is to be done with keys. Values are as they were given.
#[derive(Debug, PartialEq, Eq)]
pub enum KeysAction {
    Create { name: String, permissions: Option<String>, expires_in: Option<String> },
    List { json: bool, active: bool },
    Revoke { id: String },
    Rotate { id: String, grace: Option<String> },
    Explain,
    Apply { file: String, dry_run: bool },
}

/// Reads what follows `keys`: an action, and flags of settings.
pub fn parse(mut arguments: Arguments, literal: Vec<String>) -> Result<(KeysAction, Flags), Failure> {
    let flags = Given::take("keys", &mut arguments)?.settings;
    let name = arguments.subcommand().ok().flatten();
    let mut given = Given::take(&format!("keys {}", name.as_deref().unwrap_or_default()), &mut arguments)?;
    let actions = || help::actions("keys").iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let action = match name.as_deref() {
        Some("create") => {
            no_operands("keys create", arguments, literal)?;
            let name = given
                .value("--name")
                .ok_or_else(|| Failure::Usage("`keys create` needs a name: --name NAME".to_owned()))?;
            KeysAction::Create {
                name,
                permissions: given.value("--permissions"),
                expires_in: given.value("--expires-in"),
            }
        }
        Some("list") => {
            no_operands("keys list", arguments, literal)?;
            KeysAction::List { json: given.switch("--json"), active: given.switch("--active") }
        }
        Some("revoke") => KeysAction::Revoke { id: operand("keys revoke", "ID", arguments, literal)? },
        Some("rotate") => KeysAction::Rotate {
            id: operand("keys rotate", "ID", arguments, literal)?,
            grace: given.value("--grace"),
        },
        Some("explain") => {
            // What stands here may be a key that somebody wanted to have explained.
            if !operands("keys explain", arguments, literal)?.is_empty() {
                return Err(Failure::Usage(
                    "`keys explain` takes no argument: it reads the key from stdin, where no list of processes \
                     shows it"
                        .to_owned(),
                ));
            }
            KeysAction::Explain
        }
        Some("apply") => KeysAction::Apply {
            file: operand("keys apply", "FILE", arguments, literal)?,
            dry_run: given.switch("--dry-run"),
        },
        Some(other) => {
            return Err(unknown_action("keys", other, &format!("one of {}", actions())));
        }
        None => {
            // A flag of an action that stands before it is told so, and what is no flag at all as well.
            no_operands("keys", arguments, literal)?;
            return Err(Failure::Usage(format!("`keys` needs an action, one of {}", actions())));
        }
    };
    Ok((action, flags))
}

/// The one operand of an action.
fn operand(
    action: &str,
    placeholder: &str,
    arguments: Arguments,
    literal: Vec<String>,
) -> Result<String, Failure> {
    let mut operands = operands(action, arguments, literal)?.into_iter();
    match (operands.next(), operands.next()) {
        (Some(operand), None) if !operand.is_empty() => Ok(operand),
        (Some(_), Some(extra)) => Err(unexpected(action, &extra)),
        _ => Err(Failure::Usage(format!("`{action}` takes one {placeholder}"))),
    }
}
