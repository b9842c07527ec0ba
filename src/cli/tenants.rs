//! The command line of `cloacinactl tenants`.

use pico_args::Arguments;

use super::action::GivenAction;
use crate::command_error::CommandError::{self, Usage};
use crate::config::Flags;

/// What is to be done with tenants. Values are as they were given.
#[derive(Debug, PartialEq, Eq)]
pub enum TenantsAction {
    Create { name: String, username: Option<String>, password_file: Option<String> },
    List { json: bool },
    Show { name: String },
    Password { name: String, password_file: Option<String> },
    Remove { name: String, force: bool },
}

/// Reads what follows `tenants`: an action, and flags of settings.
pub fn parse(arguments: Arguments, literal: Vec<String>) -> Result<(TenantsAction, Flags), CommandError> {
    let (mut given, settings) = GivenAction::take("tenants", arguments, literal, |action| {
        ["create", "password"].contains(&action).then_some(
            "a tenant's NAME is all that stands here; its password comes by --password-file, where no list of \
             processes shows it",
        )
    })?;
    let action = match &*given.name {
        "create" => {
            let (name, username) = (given.operand("NAME")?, given.flags.value("--username"));
            let password_file = given.flags.value("--password-file");
            if password_file.is_some() && username.is_none() {
                let line = "`--password-file` needs `--username`, the role whose password it is";
                return Err(Usage(line.to_owned()));
            }
            TenantsAction::Create { name, username, password_file }
        }
        "list" => TenantsAction::List { json: given.flags.switch("--json") },
        "show" => TenantsAction::Show { name: given.operand("NAME")? },
        "password" => TenantsAction::Password {
            name: given.operand("NAME")?,
            password_file: given.flags.value("--password-file"),
        },
        _ => TenantsAction::Remove { name: given.operand("NAME")?, force: given.flags.switch("--force") },
    };
    Ok((action, settings))
}
