//! What is made of the grammar: the schema and the reference.

use serde_json::Value;

use super::*;
use crate::workflows::manifest::grammar::{HEADED, Kind, MANIFEST, Presence, Table};
use crate::workflows::manifest::reference::reference;

/// Each table with its schema.
fn tables(table: &'static Table, schema: &Value, found: &mut Vec<(&'static Table, Value)>) {
    found.push((table, schema.clone()));
    for field in table.fields {
        let of_field = &schema["properties"][field.name];
        match &field.kind {
            Kind::Table(table) => tables(table, of_field, found),
            Kind::Tables { table, .. } => tables(table, &of_field["items"], found),
            _ => {}
        }
    }
}

#[test]
fn the_schema_has_every_field_and_no_other() {
    let mut found = Vec::new();
    tables(&MANIFEST, &schema(), &mut found);
    assert_eq!(found.len(), HEADED.len() + 2);
    for (table, schema) in found {
        let names: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut known: Vec<_> = table.fields.iter().map(|field| field.name).collect();
        known.sort_unstable();
        assert_eq!((names, &schema["additionalProperties"]), (known, &Value::Bool(false)));
        for field in table.fields {
            let is_required = schema["required"].as_array().unwrap().contains(&field.name.into());
            assert_eq!(is_required, matches!(field.presence, Presence::Required), "{}", field.name);
            assert!(
                schema["properties"][field.name]["description"].as_str().unwrap().starts_with(field.help)
            );
        }
    }
}

/// `workflow schema --help` says it, and the man page says what that says.
#[test]
fn the_help_text_ends_with_the_reference() {
    let help = include_str!("../../../cli/help/workflow-schema.txt");
    let reference = reference();
    assert!(help.ends_with(&reference), "the help text must end with\n{reference}");
}

#[test]
fn the_reference_names_every_field() {
    let reference = reference();
    for table in HEADED {
        let (_, part) = reference.split_once(table.header).unwrap();
        for field in table.fields {
            assert!(part.contains(&format!("\n  {}: ", field.name)), "{}", field.name);
        }
    }
    assert!(reference.contains("\n      attempts: an integer from 1 to 100 (required)\n"), "{reference}");
    assert!(reference.lines().all(|line| line.chars().count() <= 100), "{reference}");
}

#[test]
fn words_of_other_programs_lead_to_fields_that_there_are() {
    for table in HEADED.into_iter().chain([&MANIFEST]) {
        let plain = |word: &str| word.chars().all(|c| c.is_ascii_lowercase());
        for (word, meant) in table.foreign {
            assert!(plain(word) && table.field(word).is_none(), "{word}");
            assert!(table.field(meant).is_some(), "{word} {meant}");
        }
        assert!(table.absent.iter().all(|(word, _)| plain(word) && table.field(word).is_none()));
    }
}
