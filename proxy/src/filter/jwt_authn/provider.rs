//! Who issues tokens: where they are in a request, what they must say, and what is made of them.

use std::sync::Arc;

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value};

use super::{
    keys::KeySet,
    remote::RemoteKeys,
    token::{Failure, Token},
};
use crate::{
    http::{head::Head, metadata::Metadata},
    route::matcher::TextMatch,
};

/// As whose the claims are said to other filters.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";

/// One issuer.
#[derive(Debug)]
pub(super) struct Provider {
    /// Empty: any.
    pub(super) issuer: String,
    /// Empty: any.
    pub(super) audiences: Vec<String>,
    pub(super) subjects: Option<TextMatch>,
    pub(super) require_expiration: bool,
    /// In seconds.
    pub(super) clock_skew: u64,
    pub(super) places: Vec<Place>,
    /// Whether the upstream gets the token too.
    pub(super) forward: bool,
    pub(super) payload_field: Option<PayloadField>,
    /// Fields and the claims that they carry.
    pub(super) claim_fields: Vec<(Vec<u8>, String)>,
    /// Under which other filters find the claims.
    pub(super) metadata_key: Option<String>,
    pub(super) keys: Keys,
}

/// Whose signatures are good.
#[derive(Debug)]
pub(super) enum Keys {
    Local(KeySet),
    Remote(Arc<RemoteKeys>),
}

/// Where a token may be.
#[derive(Debug)]
pub(super) enum Place {
    /// In this field, after this prefix.
    Field { name: Vec<u8>, prefix: Vec<u8> },
    /// In this query parameter.
    Parameter(Vec<u8>),
}

/// The field that carries the claims on.
#[derive(Debug)]
pub(super) struct PayloadField {
    pub(super) name: Vec<u8>,
    pub(super) padded: bool,
}

// === impl Provider ===

impl Provider {
    /// Looks for a token and checks all that are there.
    pub(super) fn check(&self, head: &mut Head, said: &mut Metadata, now: u64) -> Result<(), Failure> {
        let mut good = None;
        for place in &self.places {
            if let Some(text) = place.find(head) {
                let token = Token::parse(text).ok_or(Failure::Malformed)?;
                self.verify(&token, now)?;
                good.get_or_insert(token);
            }
        }
        let token = good.ok_or(Failure::Missing)?;
        self.pass_on(&token, head);
        if let Some(key) = &self.metadata_key {
            said.merge(NAMESPACE, &Map::from_iter([(key.clone(), token.claims)]));
        }
        Ok(())
    }

    fn verify(&self, token: &Token, now: u64) -> Result<(), Failure> {
        self.check_claims(token, now)?;
        match &self.keys {
            Keys::Local(keys) => keys.verify(token),
            Keys::Remote(remote) => remote.current().ok_or(Failure::NoKeys)?.verify(token),
        }
    }

    fn check_claims(&self, token: &Token, now: u64) -> Result<(), Failure> {
        if !self.issuer.is_empty() && token.issuer() != Some(&self.issuer) {
            return Err(Failure::UnknownIssuer);
        }
        if let Some(subjects) = &self.subjects {
            let subject = token.claims.get("sub").and_then(Value::as_str).unwrap_or_default();
            if !subjects.matches(subject.as_bytes()) {
                return Err(Failure::BadSignature);
            }
        }
        if token.time("nbf")?.is_some_and(|start| start > now.saturating_add(self.clock_skew)) {
            return Err(Failure::NotYetValid);
        }
        match token.time("exp")? {
            Some(end) if now > end.saturating_add(self.clock_skew) => return Err(Failure::Expired),
            None if self.require_expiration => return Err(Failure::NoExpiration),
            _ => {}
        }
        if !self.audiences.is_empty() && !token.is_for(&self.audiences) {
            return Err(Failure::WrongAudience);
        }
        Ok(())
    }

    /// Keys without which a token of this request cannot be verified, although all else about it is good.
    pub(super) fn missing(&self, head: &Head, now: u64) -> Option<&RemoteKeys> {
        let Keys::Remote(remote) = &self.keys else { return None };
        if remote.current().is_some() {
            return None;
        }
        let mut tokens = self.places.iter().filter_map(|place| place.find(head)).filter_map(Token::parse);
        tokens.any(|token| self.check_claims(&token, now).is_ok()).then_some(remote)
    }

    /// Tells the upstream what the token says.
    fn pass_on(&self, token: &Token, head: &mut Head) {
        if let Some(field) = &self.payload_field {
            let padded = || Some(URL_SAFE.encode(URL_SAFE_NO_PAD.decode(&token.payload).ok()?));
            let value = if field.padded { padded() } else { None };
            head.set(&field.name, value.as_ref().unwrap_or(&token.payload).as_bytes());
        }
        for (name, claim) in &self.claim_fields {
            let value = match token.claims.get(claim) {
                Some(Value::String(text)) => text.clone(),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                _ => continue,
            };
            // A claim with a line break could be two fields to the next reader.
            if ::http::HeaderValue::from_str(&value).is_ok() {
                head.set(name, value.as_bytes());
            }
        }
        if !self.forward {
            for place in &self.places {
                place.empty(head);
            }
        }
    }
}

// === impl Place ===

impl Place {
    /// Takes the token out.
    fn empty(&self, head: &mut Head) {
        match self {
            Self::Field { name, .. } => head.remove(name),
            Self::Parameter(name) => {
                let Some(at) = memchr::memchr(b'?', head.target()) else { return };
                let (path, query) = (&head.target()[..at], &head.target()[at + 1..]);
                let others = query
                    .split(|byte| *byte == b'&')
                    .filter(|parameter| !is_named(parameter, name))
                    .collect::<Vec<_>>();
                if others.len() == query.split(|byte| *byte == b'&').count() {
                    return;
                }
                let mut target = path.to_vec();
                if !others.is_empty() {
                    target.push(b'?');
                    target.extend_from_slice(&others.join(&b'&'));
                }
                let target = head.intern(&target);
                head.set_target(target);
            }
        }
    }

    fn find<'h>(&self, head: &'h Head) -> Option<&'h [u8]> {
        match self {
            Self::Field { name, prefix } => head.get(name)?.strip_prefix(prefix.as_slice()),
            Self::Parameter(name) => {
                let target = head.target();
                let query = &target[memchr::memchr(b'?', target)? + 1..];
                query
                    .split(|byte| *byte == b'&')
                    .find(|parameter| is_named(parameter, name))
                    .map(|parameter| &parameter[name.len() + 1..])
            }
        }
    }
}

/// Whether a parameter is `name=…`.
fn is_named(parameter: &[u8], name: &[u8]) -> bool {
    parameter.strip_prefix(name).is_some_and(|rest| rest.starts_with(b"="))
}
