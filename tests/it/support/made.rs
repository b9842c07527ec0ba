//! A key as it was answered when it was made.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What was answered when a key was made or rotated.
#[derive(Debug, Clone)]
pub struct Made(pub serde_json::Value);

impl Made {
    #[track_caller]
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_else(|| panic!("no text in {field}: {}", self.0))
    }

    #[track_caller]
    pub fn id(&self) -> &str {
        self.text("id")
    }

    #[track_caller]
    pub fn key(&self) -> &str {
        self.text("key")
    }

    /// RFC 3339 in UTC with `+00:00`.
    #[track_caller]
    pub fn moment(&self, field: &str) -> OffsetDateTime {
        let text = self.text(field);
        assert!(text.ends_with("+00:00"), "{field}: {text}");
        OffsetDateTime::parse(text, &Rfc3339).unwrap_or_else(|error| panic!("{field}: {text}: {error}"))
    }
}
