//! Printing an error with its causes.

use std::{error::Error, fmt::Write as _};

/// `error` and everything that caused it, from the outside in, joined with `": "`.
///
/// Our errors display their own level only (each names what it was doing, its source says why that failed), so the
/// chain is put together in one place: where it is shown to a person.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Libraries often repeat their cause in their own text; saying it twice helps nobody.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read settings")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn names_every_level_once() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "cannot read settings: disk on fire");
    }
}
