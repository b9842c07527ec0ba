//! cloacinactl: parse, dispatch, exit code.

mod app;
mod auth;
mod background;
mod change_log;
mod channel;
mod cli;
mod command_error;
mod config;
mod cron;
mod database_command;
mod engine;
mod error;
mod error_response;
mod execution_changes;
mod executions;
mod hosts;
mod http;
mod json_body;
mod json_text;
mod keys;
mod logging;
mod maintenance;
mod metrics;
mod networks;
mod openapi;
mod paging;
mod plain_file;
mod postgres_link;
mod rate_limit;
mod reload;
mod routes;
mod scheduler;
mod serve;
mod serve_check;
mod server_endpoints;
mod sha256;
mod signals;
mod store;
mod suggestion;
mod systemd;
mod tenants;
mod terminal;
mod waiting_clients;
mod warnings;
mod workflows;

use std::ffi::OsString;
use std::panic::catch_unwind;
use std::process::ExitCode;

use cli::{Command, health};
use command_error::CommandError;

/// musl's own allocator takes one lock for every call, and listing keys has many.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(code) = own_process(&arguments) {
        return code;
    }
    let code = catch_unwind(|| cli::parse(arguments).and_then(run))
        .unwrap_or_else(|_| {
            Err(CommandError::Runtime("internal error: a panic, which is logged above".to_owned()))
        })
        .unwrap_or_else(|failure| {
            cli::print_error(&failure);
            ExitCode::from(failure.exit_code())
        });
    logging::flush();
    code
}

/// The processes that this program starts of itself, which are no commands for people.
fn own_process(arguments: &[OsString]) -> Option<ExitCode> {
    let (name, arguments) = arguments.split_first()?;
    match name.to_str()? {
        "exec-task" => Some(engine::exec_task::main(arguments)),
        "supervise-task" => Some(engine::supervisor::main(arguments)),
        "unpack-package" => Some(workflows::archive::unpack_main(arguments)),
        _ => None,
    }
}

/// The exit code is success, but for commands whose result is one.
fn run(invocation: cli::Invocation) -> Result<ExitCode, CommandError> {
    let home = || config::home(invocation.home.as_deref());
    match invocation.command {
        Command::Serve(flags) => {
            let (home, verbose) = (home()?, invocation.verbose);
            serve::serve(move || config::Settings::load_all(home.clone(), verbose, flags.clone()))?;
        }
        Command::Check(flags) => {
            logging::start_without_file(invocation.verbose);
            return serve_check::check(home()?, flags);
        }
        Command::ConfigGet(key) => cli::print(&cli::config::get(&home()?, &key)?)?,
        Command::ConfigSet(key, value) => cli::config::set(&home()?, &key, &value)?,
        Command::ConfigUnset(key) => cli::config::unset(&home()?, &key)?,
        Command::ConfigList => cli::print(&cli::config::list(&home()?)?)?,
        Command::Keys(action, flags) => {
            logging::start_without_file(invocation.verbose);
            let needs = config::Setting::is_for_keys;
            return keys::command::run(action, settings_of_command(invocation.home, flags, needs));
        }
        Command::Tenants(action, flags) => {
            logging::start_without_file(invocation.verbose);
            let needs = config::Setting::is_for_tenants;
            return tenants::command::run(action, settings_of_command(invocation.home, flags, needs));
        }
        Command::Hosts(action, flags) => {
            logging::start_without_file(invocation.verbose);
            let needs = config::Setting::is_for_hosts;
            return hosts::command::run(
                action,
                settings_of_command(invocation.home, flags, needs),
                scheduler::abandon_forgotten,
            );
        }
        Command::Workflow(action) => return workflows::command::run(action),
        Command::Health(url) => {
            let url = url.map_or_else(|| health::url_of(config::bind(home()?)?), Ok)?;
            health::check(&url)?;
            cli::print("ready\n")?;
        }
        Command::Print(text) => cli::print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What a command on the database loads its settings with.
fn settings_of_command(
    home: Option<String>,
    flags: config::Flags,
    needs: fn(&config::Setting) -> bool,
) -> impl FnOnce() -> Result<config::Settings, CommandError> + Send + 'static {
    move || config::Settings::for_command(config::home(home.as_deref())?, flags, needs)
}
