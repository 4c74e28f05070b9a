//! Polling for a condition.

use std::{
    env,
    fmt::Display,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// Generous on purpose: a test says that something happens, a benchmark says how fast.
pub const LONG: Duration = Duration::from_secs(60);

/// How long a test of endurance runs: `WEFT_SOAK_SECONDS`, else `default` as a smoke test.
pub fn soak(default: u64) -> anyhow::Result<Duration> {
    let given = env::var("WEFT_SOAK_SECONDS").ok().map(|text| text.parse());
    let seconds = given.transpose().context("WEFT_SOAK_SECONDS is not a number")?;
    Ok(Duration::from_secs(seconds.unwrap_or(default)))
}

const PAUSE: Duration = Duration::from_millis(50);

/// Calls `probe` until it gives a value, for at most `limit`; on time-out the error says what it last said.
///
/// `Ok(Err(reason))` means not yet; `Err` ends the wait.
pub async fn wait_for<T, R: Display, F: Future<Output = anyhow::Result<Result<T, R>>>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        match probe().await? {
            Ok(value) => return Ok(value),
            Err(reason) if started.elapsed() > limit => {
                bail!("{what}: not within {} s: {reason}", limit.as_secs());
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
