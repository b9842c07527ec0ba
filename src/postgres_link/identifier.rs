//! Names in statements that take no parameters.

/// A name as SQL writes it, whatever is in it.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
