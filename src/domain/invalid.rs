//! What is wrong with an input, field by field: the `errors` of a 422 answer.

use std::collections::BTreeMap;

use serde::Serialize;

/// Messages by field name. Empty means valid.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Invalid(BTreeMap<String, Vec<String>>);

impl Invalid {
    pub fn new() -> Self {
        Self::default()
    }

    /// One field with one message.
    pub fn one(field: impl Into<String>, text: impl Into<String>) -> Self {
        let mut invalid = Self::new();
        invalid.add(field, text);
        invalid
    }

    pub fn add(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.0.entry(field.into()).or_default().push(text.into());
    }

    /// Takes over what `inner` found, its fields named under `prefix`: `triggers[0].threshold`.
    pub fn merge(&mut self, prefix: &str, inner: Self) {
        for (field, texts) in inner.0 {
            self.0.entry(format!("{prefix}{field}")).or_default().extend(texts);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn fields(&self) -> &BTreeMap<String, Vec<String>> {
        &self.0
    }

    /// `value` when nothing was found.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for (field, texts) in &self.0 {
            for text in texts {
                write!(f, "{separator}{field} {text}")?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}
