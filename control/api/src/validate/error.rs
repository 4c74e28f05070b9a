//! One broken rule at one field.

use std::fmt;

use serde_json::Value;

/// A rule that an object breaks, in the words of Kubernetes.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Path of the field, such as `spec.containers[0].name`.
    pub path: String,
    /// Which kind of rule.
    pub kind: FieldErrorKind,
    /// The bad value, where showing it helps.
    pub value: Option<Value>,
    /// What would be right.
    pub detail: String,
}

/// Kinds of broken rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value is missing.
    Required,
    /// The value is malformed or out of bounds.
    Invalid,
    /// The value occurs twice.
    Duplicate,
    /// The value is not one of the known ones.
    NotSupported,
    /// The field may not be set or changed here.
    Forbidden,
    /// The value is too long.
    TooLong,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// The value refers to something that is not there.
    NotFound,
}

// === impl FieldError ===

// `value` holds only JSON numbers that are finite, so equality is total.
impl Eq for FieldError {}

impl FieldError {
    /// An error without value and detail.
    pub fn new(path: impl Into<String>, kind: FieldErrorKind) -> Self {
        Self { path: path.into(), kind, value: None, detail: String::new() }
    }

    /// A value is missing.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Required).detail(detail)
    }

    /// The value is malformed or out of bounds.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Invalid).value(value).detail(detail)
    }

    /// The value occurs twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, FieldErrorKind::Duplicate).value(value)
    }

    /// The value is not one of `supported`.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        Self::new(path, FieldErrorKind::NotSupported)
            .value(value)
            .detail(format!("supported values: {}", list.join(", ")))
    }

    /// The field may not be set or changed here.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Forbidden).detail(detail)
    }

    /// The value is too long.
    pub fn too_long(path: impl Into<String>, limit: usize) -> Self {
        Self::new(path, FieldErrorKind::TooLong).detail(format!("may not be more than {limit} bytes"))
    }

    /// The value refers to something that is not there.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, FieldErrorKind::NotFound).value(value)
    }

    /// Sets the bad value.
    pub fn value(mut self, value: impl Into<Value>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Sets what would be right.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The message without the path, as it stands in `details.causes`.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if let (true, Some(value)) = (self.kind.shows_value(), &self.value) {
            // Debug formatting of strings quotes like Go's %q; every other JSON value prints as itself.
            text.push_str(&match value {
                Value::String(value) => format!(": {value:?}"),
                value => format!(": {value}"),
            });
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl std::error::Error for FieldError {}

// === impl FieldErrorKind ===

impl FieldErrorKind {
    /// The machine-readable reason in `details.causes`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::Duplicate => "Duplicate value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::NotFound => "Not found",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong)
    }
}
