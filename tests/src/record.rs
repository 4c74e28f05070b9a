//! What a run tells apart from pass and fail: measurements, and tests that this machine cannot run.

use std::{env, fmt, fs, io::Write as _};

/// Names the file to which skips are appended, one `test: reason` per line; `tests/run` lists them at its end.
const SKIPS: &str = "WEFT_TEST_SKIPS";

/// Names the file to which measurements are appended; `tests/run` lists them too.
const MEASUREMENTS: &str = "WEFT_TEST_MEASUREMENTS";

/// Records that `test` does not run, and why; see [`need!`](crate::need).
///
/// # Panics
/// When `CI` is `true`: there a skip is a failure.
pub fn skip(test: &str, reason: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "{test} cannot run, and CI skips nothing: {reason}");
    append(SKIPS, format_args!("skipped: {test}: {reason}"));
}

/// Records a measurement; see [`measured!`](crate::measured).
pub fn measurement(text: fmt::Arguments<'_>) {
    append(MEASUREMENTS, text);
}

/// Leaves the test with `Ok(())` when a tool is missing, recording why.
#[macro_export]
macro_rules! need {
    ($test:expr, $found:expr) => {
        match $found {
            Ok(it) => it,
            Err(reason) => {
                $crate::record::skip($test, &format!("{reason:#}"));
                return Ok(());
            }
        }
    };
}

/// Prints and records a number that a person will want to see, in the words of `format!`.
#[macro_export]
macro_rules! measured {
    ($($text:tt)*) => {
        $crate::record::measurement(format_args!($($text)*))
    };
}

fn append(variable: &str, line: fmt::Arguments<'_>) {
    println!("{line}");
    let Some(path) = env::var_os(variable) else { return };
    let written = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot append to {}: {error}", path.display()));
}
