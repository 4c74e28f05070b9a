//! Making many objects without drowning an API server that refuses them all.

use std::future::Future;

use futures::future::join_all;

/// Calls `make` for 0, 1, … `count`-1: first once, then in batches that double as long as every call succeeds.
///
/// A quota that is used up or a template that is refused costs one call, not five hundred. Returns how many succeeded,
/// and the first error.
pub(crate) async fn slow_start<E, F>(count: usize, make: impl Fn(usize) -> F) -> (usize, Option<E>)
where
    F: Future<Output = Result<(), E>>,
{
    let mut succeeded = 0;
    let mut begun = 0;
    let mut size = 1;
    while begun < count {
        let batch = size.min(count - begun);
        let results = join_all((begun..begun + batch).map(&make)).await;
        begun += batch;
        let mut first_error = None;
        for result in results {
            match result {
                Ok(()) => succeeded += 1,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if first_error.is_some() {
            return (succeeded, first_error);
        }
        size *= 2;
    }
    (succeeded, None)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_first_refusal_ends_it() {
        let calls = Cell::new(0);
        let result = slow_start(500, |_| {
            calls.set(calls.get() + 1);
            async { Err("quota") }
        });
        assert_eq!(result.await, (0, Some("quota")));
        assert_eq!(calls.get(), 1);
    }

    #[tokio::test]
    async fn batches_double_until_one_fails() {
        let calls = Cell::new(0);
        let result = slow_start(100, |n| {
            calls.set(calls.get() + 1);
            async move { if n == 5 { Err("full") } else { Ok(()) } }
        });
        assert_eq!(result.await, (6, Some("full")));
        assert_eq!(calls.get(), 1 + 2 + 4);
    }

    #[tokio::test]
    async fn everything_is_made_when_nothing_fails() {
        assert_eq!(slow_start(10, |_| async { Ok::<_, ()>(()) }).await, (10, None));
    }
}
