//! The grammar as a JSON schema (draft 7, which editors of TOML know): what names, types and bounds there are. What only
//! the whole tells, such as cycles, is left to `workflow check`.

use serde_json::{Map, Value, json};

use super::grammar::{Field, Kind, Literal, MANIFEST, Presence, Table};
use super::run_if::{COMBINATIONS, OUTCOMES, TESTS};

const NAME: &str = "^[A-Za-z][A-Za-z0-9_-]{0,62}$";
const VERSION: &str = "^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\
                       (-(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(\\.(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?$";
const VARIABLE: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

/// What `cloacinactl workflow schema` prints.
pub fn schema() -> Value {
    let mut schema = of_table(&MANIFEST);
    let Value::Object(fields) = &mut schema else { return schema };
    fields.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    fields.insert("title".to_owned(), json!("package.toml of a workflow of cloacinactl"));
    fields.insert("definitions".to_owned(), json!({ "condition": condition() }));
    schema
}

fn of_table(table: &Table) -> Value {
    let properties: Map<_, _> =
        table.fields.iter().map(|field| (field.name.to_owned(), of_field(field))).collect();
    let is_required = |field: &&Field| matches!(field.presence, Presence::Required);
    let required: Vec<_> = table.fields.iter().filter(is_required).map(|field| field.name).collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn of_field(field: &Field) -> Value {
    let mut schema = of_kind(&field.kind);
    let Value::Object(fields) = &mut schema else { return schema };
    let default = match field.presence {
        Presence::Required => String::new(),
        Presence::Optional(without) => format!(" Default: {without}."),
        Presence::Default(Literal::Text(text)) => {
            fields.insert("default".to_owned(), json!(text));
            String::new()
        }
        Presence::Default(Literal::Boolean(boolean)) => {
            fields.insert("default".to_owned(), json!(boolean));
            String::new()
        }
    };
    let description = format!("{} Expected: {}.{default}", field.help, field.kind.expected());
    fields.insert("description".to_owned(), json!(description));
    schema
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Name => json!({ "type": "string", "pattern": NAME }),
        Kind::Version => json!({ "type": "string", "pattern": VERSION, "maxLength": 100 }),
        Kind::Text(most) => json!({ "type": "string", "maxLength": most }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Duration { .. } => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Kind::Bytes { .. } => json!({ "type": "string", "pattern": "^[0-9]+[KMGT]$" }),
        Kind::OneOf(words) => json!({ "type": "string", "enum": words }),
        Kind::Cron | Kind::Timezone => json!({ "type": "string", "minLength": 1 }),
        Kind::Command => json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 }),
        Kind::Tasks => array_of_unique(&json!({ "type": "string", "pattern": NAME })),
        Kind::Secrets => {
            let not = json!({ "pattern": "^(CLOACINA_|LD_|(PATH|HOME|TMPDIR)$)" });
            array_of_unique(&json!({ "type": "string", "pattern": VARIABLE, "not": not }))
        }
        Kind::Environment => json!({
            "type": "object",
            "propertyNames": { "pattern": VARIABLE, "not": { "pattern": "^(CLOACINA_|(HOME|TMPDIR)$)" } },
            "additionalProperties": { "type": "string" },
        }),
        Kind::Context => json!({ "type": "object" }),
        Kind::RunIf => json!({ "$ref": "#/definitions/condition" }),
        Kind::Table(table) => of_table(table),
        Kind::Tables { table, least, most } => {
            json!({ "type": "array", "items": of_table(table), "minItems": least, "maxItems": most })
        }
    }
}

fn array_of_unique(items: &Value) -> Value {
    json!({ "type": "array", "items": items, "uniqueItems": true })
}

fn condition() -> Value {
    let only = |properties: Value| {
        let required: Vec<_> = properties.as_object().into_iter().flat_map(Map::keys).cloned().collect();
        json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
    };
    let conditions =
        json!({ "type": "array", "items": { "$ref": "#/definitions/condition" }, "minItems": 1 });
    let task = json!({ "type": "string", "pattern": NAME });
    let key = json!({ "type": "string", "minLength": 1 });
    let forms = COMBINATIONS.map(|name| only(json!({ name: conditions }))).into_iter();
    let forms = forms.chain(OUTCOMES.map(|name| only(json!({ name: task }))));
    let forms = forms.chain(TESTS.map(|name| {
        let value = match name {
            "exists" => json!({ "enum": [true] }),
            "greater_than" | "less_than" => json!({ "type": "number" }),
            _ => json!({}),
        };
        only(json!({ "context": key, name: value }))
    }));
    json!({ "oneOf": forms.collect::<Vec<_>>() })
}
