//! Parameters of statements that no log may have.

use std::fmt;

use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type};

/// A parameter that the driver's debug lines must not show.
pub struct Unlogged<'a>(pub &'a str);

impl fmt::Debug for Unlogged<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("…")
    }
}

impl ToSql for Unlogged<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <&str as ToSql>::accepts(kind)
    }

    postgres::types::to_sql_checked!();
}
