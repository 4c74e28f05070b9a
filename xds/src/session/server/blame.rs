//! Which resources a refusal is about.

use std::sync::Arc;

use crate::{resource::Rejected, session::Version};

/// A version of a resource that a client refused and that nothing it accepted has replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedVersion {
    /// What was refused.
    pub version: Version,
    /// The client's words; about this resource alone where it tells. Otherwise shared with all that may be meant.
    pub reason: Arc<str>,
    /// Whether this resource is meant. Clients that name none may mean any resource of the response.
    pub named: bool,
}

/// What a refusal means of what it answers.
///
/// Only our own proxy names the resources so that a program can tell. Envoy names clusters and listeners in its words.
pub(super) fn blame(
    message: &str,
    named: &[Rejected],
    upserts: &[(String, Version)],
) -> Vec<(String, RefusedVersion)> {
    let whole: Arc<str> = message.into();
    let told = |name: &str| named.iter().find(|rejected| rejected.name == name);
    let is_meant = |name: &str| match named {
        [] => upserts.len() == 1 || is_mentioned(name, message),
        _ => told(name).is_some(),
    };
    let any = upserts.iter().any(|(name, _)| is_meant(name));
    let meant = upserts.iter().filter(|(name, _)| !any || is_meant(name));
    meant
        .map(|(name, version)| {
            let reason = told(name).map_or_else(|| whole.clone(), |rejected| rejected.reason.as_str().into());
            (name.clone(), RefusedVersion { version: *version, reason, named: any })
        })
        .collect()
}

/// Whether `text` has `name` in it, not as a part of a longer name.
fn is_mentioned(name: &str, text: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | '~' | '*');
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let mut next = after.chars();
        let goes_on = match next.next() {
            // As punctuation it ends the name.
            Some('.' | ':') => next.next().is_some_and(in_name),
            Some(c) => in_name(c),
            None => false,
        };
        !name.is_empty()
            && !goes_on
            && !before.chars().next_back().is_some_and(|c| in_name(c) || matches!(c, '.' | ':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::google::protobuf::Any;

    fn upserts(names: &[&str]) -> Vec<(String, Version)> {
        names.iter().map(|name| ((*name).to_owned(), Version::of_body(&Any::default()))).collect()
    }

    fn blamed(message: &str, named: &[Rejected], names: &[&str]) -> Vec<(String, String, bool)> {
        let refused = blame(message, named, &upserts(names));
        refused.into_iter().map(|(name, refused)| (name, refused.reason.to_string(), refused.named)).collect()
    }

    #[test]
    fn who_tells_is_believed_and_who_mentions_is_understood() {
        let told = [Rejected { name: "b".into(), reason: "bad".into() }];
        assert_eq!(blamed("b: bad", &told, &["a", "b"]), [("b".into(), "bad".into(), true)]);
        let envoy = "Error adding/updating cluster(s) web.default:80: no such thing";
        assert_eq!(
            blamed(envoy, &[], &["default:80", "web", "web.default:8", "web.default:80"]),
            [("web.default:80".into(), envoy.into(), true)]
        );
        assert_eq!(blamed("no", &[], &["only"]), [("only".into(), "no".into(), true)]);
        assert!(blamed("no", &[], &["a", "b"]).iter().all(|(_, _, named)| !named));
    }

    #[test]
    fn long_words_about_many_resources_are_kept_once() {
        let refused = blame("no", &[], &upserts(&["a", "b", "c"]));
        assert!(refused.iter().all(|(_, one)| Arc::ptr_eq(&one.reason, &refused[0].1.reason)));
    }
}
