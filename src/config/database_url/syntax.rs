//! The two forms of a database URL, `postgresql://…` and libpq's `host=… password=…`, taken apart into parameters.

use percent_encoding::percent_decode_str;

/// A parameter with its value as it is meant. Values are bytes: a password may be any.
pub type Parameter = (String, Vec<u8>);

/// Takes a database URL apart, in its order: of two parameters of one name, the later one counts. Also how many come
/// first whose names are not written in it, being its user, host and so on.
///
/// # Errors
/// What is wrong, without any piece of the text: it may be a piece of a password.
pub fn parameters(text: &str) -> Result<(Vec<Parameter>, usize), &'static str> {
    let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    match rest {
        Some(rest) => of_url(rest),
        None => Ok((of_keywords(text)?, 0)),
    }
}

const MALFORMED: &str = "malformed";

fn of_url(rest: &str) -> Result<(Vec<Parameter>, usize), &'static str> {
    let mut parameters = Vec::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            parameters.push((name.to_owned(), percent_decode_str(value).collect()));
        }
    };
    let (credentials, rest) = split_credentials(rest);
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    put("user", user);
    put("password", password);
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host).ok_or(MALFORMED)?;
        names.push(name);
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        put("host", &names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        put("port", &ports.join(","));
    }
    put("dbname", database);
    let unnamed = parameters.len();
    for pair in options.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a parameter without a value")?;
        let name = percent_decode_str(name).decode_utf8().map_err(|_| MALFORMED)?;
        // As JDBC has it; libpq takes it, too.
        let (name, value) =
            if (&*name, value) == ("ssl", "true") { ("sslmode", "require") } else { (&*name, value) };
        parameters.push((name.to_owned(), percent_decode_str(value).collect()));
    }
    Ok((parameters, unnamed))
}

/// What stands before the `@`, and what after it. An `@` beyond a slash is part of an option, unless what comes
/// before is no host: a password may hold characters that it should not.
fn split_credentials(rest: &str) -> (&str, &str) {
    let Some((credentials, place)) = rest.split_once('@') else { return ("", rest) };
    let before = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    let is_host =
        |host| host_and_port(host).is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if !before.contains('@') && before.split(',').all(is_host) { ("", rest) } else { (credentials, place) }
}

/// `name`, `name:port`, `[::1]`, `[::1]:port`.
pub fn host_and_port(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('[') {
        None => Some(text.split_once(':').unwrap_or((text, ""))),
        Some(rest) => match rest.split_once(']')? {
            (name, "") => Some((name, "")),
            (name, port) => Some((name, port.strip_prefix(':')?)),
        },
    }
}

/// What is between two keywords, or around an equals sign, to libpq.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

pub fn of_keywords(text: &str) -> Result<Vec<Parameter>, &'static str> {
    let mut parameters = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("a parameter without a value")?;
        let name = name.trim_end_matches(is_space);
        if name.is_empty() || name.contains(is_space) {
            return Err(MALFORMED);
        }
        let (value, after) = value_of_keyword(after.trim_start_matches(is_space))?;
        parameters.push((name.to_owned(), value.into_bytes()));
        rest = after.trim_start_matches(is_space);
    }
    Ok(parameters)
}

/// A value, quoted or not, and what follows it. A backslash takes any character for what it is.
fn value_of_keyword(text: &str) -> Result<(String, &str), &'static str> {
    let quoted = text.strip_prefix('\'');
    let text = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if quoted.is_some() => return Ok((value, &text[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, taken)| taken)),
            space if is_space(space) && quoted.is_none() => return Ok((value, &text[at..])),
            other => value.push(other),
        }
    }
    match quoted {
        Some(_) => Err("a quote that does not end"),
        None => Ok((value, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        let show = |(name, value): &Parameter| format!("{name}={}", String::from_utf8_lossy(value));
        match parameters(text) {
            Ok((parameters, _)) => parameters.iter().map(show).collect::<Vec<_>>().join(" "),
            Err(reason) => format!("! {reason}"),
        }
    }

    #[test]
    fn both_forms() {
        for (text, expected) in [
            ("postgresql://u:p@h:5432/d", "user=u password=p host=h port=5432 dbname=d"),
            ("postgres://h", "host=h"),
            ("postgresql://", ""),
            ("postgresql://a:1,b,[::1]:3/", "host=a,b,::1 port=1,,3"),
            ("postgresql://u@%2Frun%2Fpostgresql/d", "user=u host=/run/postgresql dbname=d"),
            ("postgresql:///d?host=/run/postgresql&user=a@b", "dbname=d host=/run/postgresql user=a@b"),
            ("postgresql://h/d?user=a@b", "host=h dbname=d user=a@b"),
            ("postgresql://u:p%40%2F@h/d?ssl=true", "user=u password=p@/ host=h dbname=d sslmode=require"),
            ("postgresql://u:p/w?x@h/d", "user=u password=p/w?x host=h dbname=d"),
            ("postgresql://u:100%@h", "user=u password=100% host=h"),
            ("postgresql://h?a=b=c&", "host=h a=b=c"),
            ("postgresql://[::1", "! malformed"),
            ("postgresql://h?a", "! a parameter without a value"),
            ("host=h user = u password='a b\\'c' x=\\ y", "host=h user=u password=a b'c x= y"),
            ("", ""),
            ("a=''", "a="),
            ("a=", "a="),
            ("a=1 b= ", "a=1 b="),
            ("a=1\u{b}b=\u{a0}2\u{a0}", "a=1 b=\u{a0}2\u{a0}"),
            ("a=b c", "! a parameter without a value"),
            ("a b=c", "! malformed"),
            ("a='b", "! a quote that does not end"),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }
}
