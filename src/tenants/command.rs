//! `cloacinactl tenants …`: straight on the database, for an operator who has that and no key.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::answer::{Counts, Made, Removed, Shown};
use super::creation::{self, Creation};
use super::first_login::{FirstLogin, connection_string, first_login};
use super::removal::{self, Left};
use super::store::{self, PasswordChange, TABLE, TenantRow};
use super::{NewTenant, OwnNames, Password, TenantName, no_role, role, unfinished};
use crate::auth::Tenant;
use crate::cli::table::{Fit, json_array, shown_json, table, terminal_width, timestamp};
use crate::cli::{self, TenantsAction};
use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::command_error::runtime;
use crate::config::{Settings, secret_in, secret_text};
use crate::database_command::{
    self, Load, failed, find_tenant, hand_over, has_answered, invalid, remark_unconfirmed, tell_servers,
    tenant_not_found, until, until_within,
};
use crate::keys::expiry::format_rfc3339;
use crate::store::Store;
use crate::terminal::shown;
use crate::workflows;

/// Rows that are fetched at once.
const PAGE: usize = 1000;
/// For how long a removal drops by itself what a tenant had.
const DROP_LIMIT: Duration = Duration::from_secs(10);
/// More than any password has.
const MOST_STDIN_BYTES: u64 = 64 * 1024;

/// Carries out an action. `settings` is asked for only where a database is needed.
///
/// # Errors
/// `Usage` for a value that is not right, and those of `database_command::run`.
pub fn run(
    action: TenantsAction,
    settings: impl FnOnce() -> Result<Settings, CommandError> + Send + 'static,
) -> Result<ExitCode, CommandError> {
    let may_change = !matches!(action, TenantsAction::List { .. } | TenantsAction::Show { .. });
    database_command::run(settings, may_change, move |settings| {
        carry_out(&action, settings).map(|()| ExitCode::SUCCESS)
    })
}

fn carry_out(action: &TenantsAction, settings: Load) -> Result<(), CommandError> {
    match action {
        TenantsAction::Create { name, username, password_file } => {
            create(settings, name, username.as_deref(), password_file.as_deref())
        }
        TenantsAction::List { json } => list(&Store::to_look(&settings()?, &[TABLE])?, *json),
        TenantsAction::Show { name } => {
            show(&Store::to_look(&settings()?, &[TABLE, workflows::store::TABLE])?, name)
        }
        TenantsAction::Password { name, password_file } => {
            set_password(settings, name, password_file.as_deref())
        }
        TenantsAction::Remove { name, force } => {
            remove(&Store::to_change(&settings()?, &[TABLE])?, name, *force)
        }
    }
}

fn create(
    settings: Load,
    name: &str,
    username: Option<&str>,
    password_file: Option<&str>,
) -> Result<(), CommandError> {
    let login = username.map(|username| Ok((username, password(password_file)?))).transpose()?;
    let settings = settings()?;
    let store = Store::to_change(&settings, &[TABLE])?;
    let (own_role, own_schema) = creation::own_names(&store, until()).map_err(failed)?;
    let own = OwnNames { role: &own_role, schema: &own_schema };
    let named = |what, name| TenantName::parse(name, &own).map_err(|error| invalid(what, &error.to_string()));
    let name = named("NAME", name)?;
    let login =
        login.map(|(username, password)| Ok((named("--username", username)?, password))).transpose()?;
    let new = NewTenant { id: Uuid::new_v4(), name, login };
    let made = creation::create(&store, &new, until()).map_err(failed)?;
    match made.value {
        Creation::Made if !made.is_confirmed => remark_unconfirmed(),
        Creation::Made => {}
        Creation::Exists(line) | Creation::Unable(line) => return Err(Runtime(line)),
    }
    let name = new.name.as_str();
    let Some(login) = &new.login else { return print(&Made::without_role(name)) };
    let host = settings.tenant_database_host.as_ref();
    match first_login(&store, host, &new, login, until()).map_err(failed)? {
        FirstLogin::Possible(string) => {
            let (username, password) = login;
            show_login("was made", &Made::new(name, username.as_str(), password, &string), name)
        }
        FirstLogin::TakenBack(why) => {
            // Another client may have made keys for it meanwhile.
            tell_servers(&store);
            // Its names are free; what else there is of it is dropped here or by a server.
            let _ = removal::finish_until(&store, new.id, until_within(DROP_LIMIT));
            Err(Runtime(why))
        }
    }
}

/// The password that a file has, or stdin where that is called `-`; a new one where there is none.
fn password(file: Option<&str>) -> Result<Password, CommandError> {
    let Some(file) = file else {
        return Password::generate().map_err(runtime("the system has no random bytes"));
    };
    let text = match file {
        "-" => secret_text(cli::read_stdin("password", MOST_STDIN_BYTES)?),
        file => secret_in(Path::new(file)),
    };
    let wrong = |line: &str| Usage(format!("cannot take the password in `{}`: {line}", shown(file)));
    Password::from_text(&text.map_err(|line| wrong(&line))?).map_err(wrong)
}

/// Prints a password, which is stored nowhere.
fn show_login(what: &str, made: &Made<'_>, name: &str) -> Result<(), CommandError> {
    hand_over(&json(made)?, |error| {
        format!(
            "tenant '{name}' {what}, but its password could not be written to stdout ({error}): \
             `cloacinactl tenants password {name}` makes another"
        )
    })
}

fn list(store: &Store, is_json: bool) -> Result<(), CommandError> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = store::list(store, after, PAGE, until()).map_err(failed)?;
        rows.extend(page.tenants);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let unfinished = removal::unfinished(store, until()).map_err(failed)?;
    has_answered();
    cli::print(&if is_json { array(&rows)? } else { tenants_table(&rows) })?;
    for removal::Unfinished { name, role, databases } in unfinished {
        let why =
            if databases.is_empty() { String::new() } else { format!(": {}", stays(&role, &databases)) };
        cli::remark(&format!("cloacinactl: removed tenant '{name}': {STILL_THERE}{why}"));
    }
    Ok(())
}

const STILL_THERE: &str = "not all that it had is dropped yet";

/// Why a role cannot be dropped, and what helps.
fn stays(role: &str, databases: &[String]) -> String {
    let databases = databases.iter().map(|database| shown(database)).collect::<Vec<_>>().join(", ");
    format!(
        "the role {role} stays, without login, until `DROP OWNED BY {role}` has been run in these databases: {databases}"
    )
}

fn array(rows: &[TenantRow]) -> Result<String, CommandError> {
    let objects = rows.iter().map(|row| serde_json::to_vec(&Shown::from(row))).collect::<Result<Vec<_>, _>>();
    Ok(json_array(objects.map_err(runtime("cannot write JSON"))?.into_iter()))
}

fn tenants_table(rows: &[TenantRow]) -> String {
    let width = terminal_width();
    let cells = |row: &TenantRow| {
        [
            row.name.clone(),
            row.username.clone().unwrap_or("-".to_owned()),
            timestamp(format_rfc3339(row.created_at), width.is_some()),
        ]
    };
    let head = ["NAME", "USERNAME", "CREATED"].map(str::to_owned);
    let lines = [head].into_iter().chain(rows.iter().map(cells)).collect();
    table(lines, &Fit { cut: 1, optional: 2 }, width)
}

fn show(store: &Store, name: &str) -> Result<(), CommandError> {
    let tenant = find_tenant(store, name)?;
    let row = store::show(store, &tenant, until()).map_err(failed)?.ok_or_else(|| tenant_not_found(name))?;
    let counts = Counts::of(store, &tenant, until()).map_err(failed)?;
    print(&Shown::with_counts(&row, &counts))
}

fn set_password(settings: Load, name: &str, file: Option<&str>) -> Result<(), CommandError> {
    let password = password(file)?;
    let settings = settings()?;
    let store = Store::to_change(&settings, &[TABLE])?;
    let tenant = find_tenant(&store, name)?;
    let changed = store::set_password(&store, &tenant, &password, until()).map_err(failed)?;
    let username = match changed.value {
        PasswordChange::Made { username } => username,
        PasswordChange::NoRole => return Err(Runtime(no_role(&tenant))),
        PasswordChange::Removed => return Err(tenant_not_found(name)),
        PasswordChange::Exists(text) | PasswordChange::Unable(text) => return Err(Runtime(text)),
    };
    if !changed.is_confirmed {
        remark_unconfirmed();
    }
    let string = connection_string(&store, settings.tenant_database_host.as_ref(), &username, &password);
    show_login("has another password", &Made::new(name, &username, &password, &string), name)
}

fn remove(store: &Store, name: &str, force: bool) -> Result<(), CommandError> {
    let tenant = find_tenant(store, name)?;
    let removal = store::remove(store, &tenant, force, until()).map_err(failed)?;
    if removal.value.has_unfinished {
        return Err(Runtime(unfinished(&tenant, "--force")));
    }
    tell_servers(store);
    if !removal.value.was_there {
        return Err(tenant_not_found(name));
    }
    if !removal.is_confirmed {
        return Err(Runtime(format!(
            "tenant '{name}' is removed, but no synchronous standby has confirmed that: look after a failover whether \
             it is back, and remove it again then"
        )));
    }
    let printed = print(&Removed::new(&tenant, &removal.value));
    drop_what_it_had(store, &tenant);
    printed
}

/// It is removed already, so what cannot be dropped now is no failure.
fn drop_what_it_had(store: &Store, tenant: &Tenant) {
    let line = match removal::finish_until(store, tenant.id(), until_within(DROP_LIMIT)) {
        Ok(Left::Nothing) => return,
        Ok(Left::Role { databases, why }) if databases.is_empty() => {
            format!("the role {} stays, without login: {}", role::removed_name(tenant.id()), shown(&why))
        }
        Ok(Left::Role { databases, .. }) => stays(&role::removed_name(tenant.id()), &databases),
        Ok(Left::Running) => {
            format!("{STILL_THERE}: tasks of it run; a server that runs ends them, and goes on with it")
        }
        Ok(Left::More | Left::Taken) => format!("{STILL_THERE}; a server that runs goes on with it"),
        Err(error) => format!("{STILL_THERE}; a server that runs goes on with it ({error})"),
    };
    cli::remark(&format!("cloacinactl: removed tenant '{}': {line}", tenant.name()));
}

fn json(object: &impl Serialize) -> Result<String, CommandError> {
    Ok(shown_json(&serde_json::to_vec(object).map_err(runtime("cannot write JSON"))?))
}

fn print(object: &impl Serialize) -> Result<(), CommandError> {
    has_answered();
    cli::print(&(json(object)? + "\n"))
}
