//! The command line of `cloacinactl keys`.

use pico_args::Arguments;

use super::{no_operands, operands, settings, shown, switch, unexpected, value};
use crate::config::{Flags, Setting};
use crate::failure::Failure;

const ACTIONS: &str = "create, list, revoke, rotate, explain, apply";

/// What is to be done with keys. Values are as they were given.
#[derive(Debug, PartialEq, Eq)]
pub enum KeysAction {
    Create { name: String, permissions: Option<String>, expires_in: Option<String> },
    List { json: bool },
    Revoke { id: String },
    Rotate { id: String, grace: Option<String> },
    Explain,
    Apply { file: String, dry_run: bool },
}

/// Reads what follows `keys`: an action, and flags of settings.
pub fn parse(mut arguments: Arguments, literal: Vec<String>) -> Result<(KeysAction, Flags), Failure> {
    let flags = settings(&mut arguments, Setting::is_for_keys)?;
    let action = match arguments.subcommand().ok().flatten().as_deref() {
        Some("create") => {
            let name = value(&mut arguments, "--name")?;
            let permissions = value(&mut arguments, "--permissions")?;
            let expires_in = value(&mut arguments, "--expires-in")?;
            no_operands("keys create", arguments, literal)?;
            let name =
                name.ok_or_else(|| Failure::Usage("`keys create` needs a name: --name NAME".to_owned()))?;
            KeysAction::Create { name, permissions, expires_in }
        }
        Some("list") => {
            let json = switch(&mut arguments, "--json");
            no_operands("keys list", arguments, literal)?;
            KeysAction::List { json }
        }
        Some("revoke") => KeysAction::Revoke { id: operand("keys revoke", "ID", arguments, literal)? },
        Some("rotate") => {
            let grace = value(&mut arguments, "--grace")?;
            KeysAction::Rotate { id: operand("keys rotate", "ID", arguments, literal)?, grace }
        }
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
        Some("apply") => {
            let dry_run = switch(&mut arguments, "--dry-run");
            KeysAction::Apply { file: operand("keys apply", "FILE", arguments, literal)?, dry_run }
        }
        Some(other) => {
            return Err(Failure::Usage(format!(
                "unknown action {} of `keys`: it is one of {ACTIONS}",
                shown(other)
            )));
        }
        None => {
            // A flag of an action that stands before it is told so, and what is no flag at all as well.
            no_operands("keys", arguments, literal)?;
            return Err(Failure::Usage(format!("`keys` needs an action, one of {ACTIONS}")));
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
