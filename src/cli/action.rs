//! What follows a command that has actions: one of them, its flags, and its operands.

use std::vec;

use pico_args::Arguments;

use super::flags::Given;
use super::{no_operands, operands, topics, unexpected, unknown_action};
use crate::command_error::CommandError::{self, Usage};
use crate::config::Flags;

/// An action as it was given.
pub struct GivenAction {
    /// Without its command's.
    pub name: String,
    /// With its command's.
    place: String,
    pub flags: Given,
    operands: vec::IntoIter<String>,
}

impl GivenAction {
    /// Reads an action, and the flags of settings that may stand before it or behind it. `instead`: what to say of an
    /// operand too many of this action, where it may be a secret.
    ///
    /// # Errors
    /// `Usage` that names what is wrong.
    pub fn take(
        command: &str,
        mut arguments: Arguments,
        literal: Vec<String>,
        instead: fn(&str) -> Option<&'static str>,
    ) -> Result<(GivenAction, Flags), CommandError> {
        let settings = Given::take(command, &mut arguments)?.settings;
        let actions =
            || topics::actions(command).iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let Some(name) = arguments.subcommand().ok().flatten() else {
            // A flag of an action that stands before it is told so, and what is no flag at all as well.
            no_operands(command, arguments, literal)?;
            return Err(Usage(format!("`{command}` needs an action, one of {}", actions())));
        };
        let place = format!("{command} {name}");
        let Some(topic) = topics::topic(&place) else {
            return Err(unknown_action(command, &name, &format!("one of {}", actions())));
        };
        let flags = Given::take(&place, &mut arguments)?;
        let operands = operands(&place, arguments, literal)?.into_iter();
        if let Some(extra) = operands.as_slice().get(topic.operands.len()) {
            return Err(
                instead(&name).map_or_else(|| unexpected(&place, extra), |line| Usage(line.to_owned()))
            );
        }
        Ok((GivenAction { name, place, flags, operands }, settings))
    }

    /// The next operand.
    ///
    /// # Errors
    /// `Usage`: there is none.
    pub fn operand(&mut self, placeholder: &str) -> Result<String, CommandError> {
        let operand = self.operands.next().filter(|operand| !operand.is_empty());
        operand.ok_or_else(|| Usage(format!("`{}` takes one {placeholder}", self.place)))
    }
}
