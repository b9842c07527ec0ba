//! JSON objects as the text that their client wrote, which keeps every digit of their numbers: whether a text is one in which
//! no field stands twice, and where its fields are.

use std::collections::HashSet;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::terminal::start_of;

/// Whether this is an object in which, at every depth, no field stands twice. Makes nothing of its values, so that it takes
/// little memory whatever they are.
///
/// # Errors
/// Those of the parser: of the category `Data` for what is valid JSON.
pub fn check(text: &[u8], example: &str) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    Object { example }.deserialize(&mut deserializer)?;
    deserializer.end()
}

struct Object<'a> {
    example: &'a str,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "a JSON object such as {}", self.example)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = access.next_key::<String>()? {
            access.next_value::<Distinct>()?;
            if let Some(twice) = names.replace(name) {
                let name = start_of(&twice);
                return Err(A::Error::custom(format_args!("{name}: stands more than once")));
            }
        }
        Ok(())
    }
}

struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Distinct, D::Error> {
        deserializer.deserialize_any(DistinctVisitor)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Distinct;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_str<E>(self, _: &str) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Distinct, A::Error> {
        while access.next_element::<Distinct>()?.is_some() {}
        Ok(Distinct)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Distinct, A::Error> {
        Object { example: "{}" }.visit_map(access).map(|()| Distinct)
    }
}

/// The fields of an object that is valid JSON: their names, and the texts of their values. `None`: it is no such thing.
pub fn fields(text: &str) -> Option<Vec<(String, &str)>> {
    let mut rest = text.trim_start().strip_prefix('{')?.trim_start();
    let mut found = Vec::new();
    while !rest.starts_with('}') {
        let (name, after) = rest.split_at(value_end(rest)?);
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        let (value, after) = value.split_at(value_end(value)?);
        found.push((serde_json::from_str(name).ok()?, value));
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with('}') => {}
            None => return None,
        }
    }
    Some(found)
}

/// Where the value ends that a text begins with.
fn value_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            // A number, or true, false or null.
            _ => {
                let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let length = bytes[at..].iter().take_while(is_part).count();
                at += (length > 0).then_some(length)?;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Where the string ends that begins here.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_as_they_were_written() {
        let text = " {\"a\" : 1.10000000000000000001 ,\"\\u0062\":\"}\\\"{,\" , \"c\":{\"d\":[{},[\"]\"],-1e400]},\"\":null} ";
        let found = fields(text).unwrap();
        let expected = [
            ("a", "1.10000000000000000001"),
            ("b", "\"}\\\"{,\""),
            ("c", "{\"d\":[{},[\"]\"],-1e400]}"),
            ("", "null"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(fields("{}"), Some(Vec::new()));
        for wrong in
            ["", "[]", "{", "{\"a\"", "{\"a\":", "{\"a\":}", "{\"a\":1", "{\"a\":1 2}", "{\"a", "{\"a\":\"\\"]
        {
            assert_eq!(fields(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_field_stands_once() {
        for (text, expected) in [
            (r#"{"a":[1,{"b":1,"c":{"b":null}}],"b":"x"}"#, None),
            (r#"{"a":1,"a":2}"#, Some("a: stands more than once")),
            (r#"{"x":[{"a":1,"\u0061":2}]}"#, Some("a: stands more than once")),
            ("[]", Some("invalid type: sequence, expected a JSON object such as {\"x\":1}")),
        ] {
            let error = check(text.as_bytes(), "{\"x\":1}").err();
            assert!(error.as_ref().is_none_or(serde_json::Error::is_data), "{text}");
            let line = error.map(|error| error.to_string());
            assert!(
                line.as_deref().unwrap_or("none").starts_with(expected.unwrap_or("none")),
                "{text}: {line:?}"
            );
        }
        for (text, start) in
            [("{} x", "trailing"), ("{\"a\":1e999}", "number out of range"), ("{\"a\":\"\\ud800\"}", "")]
        {
            let error = check(text.as_bytes(), "{}").unwrap_err();
            assert!(!error.is_data() && error.to_string().starts_with(start), "{error}");
        }
    }
}
