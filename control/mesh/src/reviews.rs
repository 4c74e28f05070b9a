//! Who showed which token, remembered for a while: proxies that all come back at once would else have the API server
//! review each token again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A token that was believed is believed for as long without asking; so also one that was revoked meanwhile. As
/// kube-apiserver does with what its webhook says (`--authentication-token-webhook-cache-ttl`).
const BELIEVED_FOR: Duration = Duration::from_secs(120);

/// So many are remembered; with more, those that were asked about first are asked about again.
const REMEMBERED: usize = 20_000;

/// What was said of tokens. Failures are not remembered: who has just been given rights tries again at once.
pub(crate) struct Reviews<K, E> {
    inner: Arc<Mutex<Inner<K, E>>>,
}

/// A digest: tokens themselves are not kept.
type Key = [u8; 32];
type Review<K, E> = Shared<BoxFuture<'static, Result<Arc<K>, E>>>;

struct Inner<K, E> {
    tokens: HashMap<Key, Token<K, E>>,
    /// Those that are believed, in the order in which that ends.
    believed: VecDeque<(Instant, Key)>,
}

enum Token<K, E> {
    /// There is no answer yet. All who show it wait for the same one; nobody may be left who does.
    Asked(WeakShared<BoxFuture<'static, Result<Arc<K>, E>>>),
    Believed {
        known: Arc<K>,
        until: Instant,
    },
}

/// Forgets a question whose answer nobody waits for any more.
struct Asking<K, E> {
    inner: Arc<Mutex<Inner<K, E>>>,
    key: Key,
}

// === impl Reviews ===

impl<K: Send + Sync + 'static, E: Clone + Send + Sync + 'static> Reviews<K, E> {
    pub(crate) fn new() -> Self {
        let inner = Inner { tokens: HashMap::new(), believed: VecDeque::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Who shows this token, asked with `ask` if it is not known, or known of somebody who may have changed (`holds` is
    /// false).
    pub(crate) async fn review(
        &self,
        token: &str,
        holds: impl FnOnce(&K) -> bool,
        ask: impl FnOnce() -> BoxFuture<'static, Result<K, E>>,
    ) -> Result<Arc<K>, E> {
        let review = match self.find_or_ask(token, holds, ask) {
            Ok(known) => return Ok(known),
            Err(review) => review,
        };
        review.await
    }

    fn find_or_ask(
        &self,
        token: &str,
        holds: impl FnOnce(&K) -> bool,
        ask: impl FnOnce() -> BoxFuture<'static, Result<K, E>>,
    ) -> Result<Arc<K>, Review<K, E>> {
        let key = key(token);
        let mut inner = self.inner.lock();
        match inner.tokens.get(&key) {
            Some(Token::Believed { known, until }) if Instant::now() < *until && holds(known) => {
                return Ok(known.clone());
            }
            Some(Token::Asked(review)) => {
                if let Some(review) = review.upgrade() {
                    return Err(review);
                }
            }
            Some(Token::Believed { .. }) | None => {}
        }
        let (asking, answer) = (Asking { inner: self.inner.clone(), key }, ask());
        let review = async move {
            let known = answer.await.map(Arc::new);
            if let Ok(known) = &known {
                asking.inner.lock().believe(asking.key, known.clone());
            }
            drop(asking);
            known
        };
        let review = review.boxed().shared();
        if let Some(asked) = review.downgrade() {
            inner.tokens.insert(key, Token::Asked(asked));
        }
        Err(review)
    }
}

fn key(token: &str) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

// === impl Inner ===

impl<K, E> Inner<K, E> {
    fn believe(&mut self, key: Key, known: Arc<K>) {
        let now = Instant::now();
        let until = now + BELIEVED_FOR;
        self.tokens.insert(key, Token::Believed { known, until });
        self.believed.push_back((until, key));
        while let Some((ends, key)) = self.believed.front().copied()
            && (ends <= now || self.believed.len() > REMEMBERED)
        {
            self.believed.pop_front();
            // It may have been asked about again since.
            if matches!(self.tokens.get(&key), Some(Token::Believed { until, .. }) if *until == ends) {
                self.tokens.remove(&key);
            }
        }
    }
}

// === impl Asking ===

impl<K, E> Drop for Asking<K, E> {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        if matches!(inner.tokens.get(&self.key), Some(Token::Asked(_))) {
            inner.tokens.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::{join_all, pending};

    use super::*;

    /// An API server that takes its time.
    #[derive(Default)]
    struct Server {
        asked: Arc<AtomicUsize>,
        refuses: bool,
    }

    impl Server {
        fn ask(&self, token: &str) -> BoxFuture<'static, Result<String, String>> {
            let (asked, refuses, who) = (self.asked.clone(), self.refuses, token.to_owned());
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
                if refuses { Err(who) } else { Ok(who) }
            }
            .boxed()
        }

        /// How often it was asked since this was asked last.
        fn asked(&self) -> usize {
            self.asked.swap(0, Ordering::Relaxed)
        }
    }

    fn holds(_known: &String) -> bool {
        true
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_streams_with_one_token_are_one_review_for_two_minutes() {
        let (server, reviews) = (Server::default(), Reviews::new());
        let thousand = || join_all((0..1000).map(|_| reviews.review("a", holds, || server.ask("a"))));
        for answer in thousand().await {
            assert_eq!(answer.as_deref().map(String::as_str), Ok("a"));
        }
        assert_eq!(server.asked(), 1);
        tokio::time::advance(Duration::from_secs(119)).await;
        thousand().await;
        assert_eq!(server.asked(), 0);
        assert_eq!(*reviews.review("b", holds, || server.ask("b")).await.expect("known"), "b");
        assert_eq!(server.asked(), 1, "others are others");
        tokio::time::advance(Duration::from_secs(1)).await;
        thousand().await;
        assert_eq!(server.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_proxies_that_come_back_are_no_review() {
        let (server, reviews) = (Server::default(), Reviews::new());
        let tokens: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
        let all = || join_all(tokens.iter().map(|token| reviews.review(token, holds, || server.ask(token))));
        all().await;
        assert_eq!(server.asked(), 1000);
        for _ in 0..10 {
            for (answer, token) in all().await.iter().zip(&tokens) {
                assert_eq!(answer.as_deref(), Ok(token));
            }
        }
        assert_eq!(server.asked(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_shared_by_who_waits_for_it_and_not_remembered() {
        let (server, reviews) = (Server { refuses: true, ..Server::default() }, Reviews::new());
        for _ in 0..2 {
            let answers = join_all((0..10).map(|_| reviews.review("a", holds, || server.ask("a")))).await;
            assert!(answers.iter().all(Result::is_err));
            assert_eq!(server.asked(), 1);
        }
        assert!(reviews.inner.lock().tokens.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_have_changed_is_asked_about_again() {
        let (server, reviews) = (Server::default(), Reviews::new());
        for (known_holds, asked) in [(true, 1), (true, 0), (false, 1), (true, 0)] {
            reviews.review("a", |_| known_holds, || server.ask("a")).await.expect("known");
            assert_eq!(server.asked(), asked);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_nothing_and_holds_nobody_up() {
        let (server, reviews) = (Server::default(), Reviews::<String, String>::new());
        let mut first = Box::pin(reviews.review("a", holds, || server.ask("a")));
        let second = reviews.review("a", holds, || server.ask("a"));
        assert!(first.as_mut().now_or_never().is_none());
        drop(first);
        second.await.expect("known");
        let given_up = reviews.review("b", holds, || pending().boxed());
        assert!(given_up.now_or_never().is_none());
        assert_eq!(reviews.inner.lock().tokens.len(), 1, "only what is known");
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_limit_to_what_is_remembered() {
        let reviews = Reviews::<usize, String>::new();
        for number in 0..=REMEMBERED {
            let known = async move { Ok(number) };
            reviews.review(&number.to_string(), |_| true, || known.boxed()).await.expect("known");
        }
        let known = |number: usize| {
            reviews
                .review(&number.to_string(), |_| true, || async { Err("asked".into()) }.boxed())
                .now_or_never()
        };
        assert_eq!(reviews.inner.lock().tokens.len(), REMEMBERED);
        assert_eq!(known(REMEMBERED).expect("at once").as_deref(), Ok(&REMEMBERED));
        assert!(known(0).expect("at once").is_err(), "it was asked about first");
        tokio::time::advance(BELIEVED_FOR).await;
        reviews.review("new", |_| true, || async { Ok(0) }.boxed()).await.expect("known");
        assert_eq!(reviews.inner.lock().tokens.len(), 1, "what is over is forgotten");
    }
}
